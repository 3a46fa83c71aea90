r"""Finds the final answer of a response: the last balanced ``\boxed{...}`` after the reasoning."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"(?P<box>\\boxed\s*\{)|\\.|(?P<brace>[{}])", re.DOTALL)


def boxed_answer(response: str) -> str | None:
    r"""The answer a response commits to, or None.

    Only text after the last ``</think>`` counts, and none inside a ``<think>`` left open. Of the
    closed boxes the one that starts last wins, so of nested boxes the innermost; an empty box is no
    answer. One pass over the text, whatever it holds.
    """
    final_text = response.rpartition("</think>")[2].partition("<think>")[0]
    open_braces: list[int | None] = []  # content start of each open box, None for a plain brace
    best_start, answer = -1, None
    for token in _TOKEN.finditer(final_text):
        if token["box"]:
            open_braces.append(token.end())
        elif token["brace"] == "{":
            open_braces.append(None)
        elif token["brace"] == "}" and open_braces:
            start = open_braces.pop()
            if start is not None and start > best_start:
                best_start, answer = start, final_text[start : token.start()].strip()
    return answer or None
