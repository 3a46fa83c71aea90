"""Self-contained HTML pages: what the templates of ``report.html`` and ``compare.html`` share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from archer.comparison import charts

MAX_SHOWN_CHARS = 6000


def render_page(template: str, **content: Any) -> str:
    """A page from ``templates/``, with the colours of the charts."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1] / "templates"),
        autoescape=True,  # prompts and responses are untrusted text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, shorten=shorten)
    page = environment.get_template(template)
    return page.render(light=charts.LIGHT, dark=charts.DARK, **content)


def number(value: float | None, digits: int = 3) -> str:
    """Fixed digits and separated thousands; ``-`` for nothing."""
    return "-" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def shorten(text: str, limit: int = MAX_SHOWN_CHARS) -> str:
    """The text, or its two ends and how much is left out between them."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Padded, so that it reads as plain text too; the first column to the left."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = [f"{'-' * width}:" for width in widths]
    rule[0] = "-" * (widths[0] + 1)
    padded = [
        [
            cell.ljust(width + 1) if i == 0 else cell.rjust(width + 1)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (padded[0], rule, *padded[1:]))
