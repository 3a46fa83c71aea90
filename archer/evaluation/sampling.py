"""Held-out prompts, sampled and judged, for the trainer and for ``python -m archer.evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from archer.collector import OpenGroup, SampleStream, sample_requests
from archer.config.keys import Protocol
from archer.seeds import derive_seed
from archer.types import Group, Prompt, SampleRequest

Asked = Sequence[tuple[Prompt, Sequence[SampleRequest]]]
"""Prompts with the requests of their samples."""


def eval_requests(prompts: Sequence[Prompt], protocol: Protocol, seed: int) -> Asked:
    """The samples of held-out prompts.

    Their seeds depend on the run seed, the prompt and the sample index only, so evaluations before
    and after training draw the same random numbers, and so does one that goes on where it was
    killed.
    """
    return [
        (
            prompt,
            sample_requests(
                prompt,
                protocol.num_samples,
                lambda index, prompt=prompt: derive_seed(seed, "eval", prompt.id, index),
                temperature=protocol.temperature,
                top_p=protocol.top_p,
                max_tokens=protocol.max_response_tokens,
            ),
        )
        for prompt in prompts
    ]


def sample_groups(
    stream: SampleStream, asked: Asked, on_group: Callable[[], None] = lambda: None
) -> tuple[Group, ...]:
    """Judged groups in the order asked for.

    Args:
        on_group: called after each group.
    """
    by_prompt = {}
    for group in stream_groups(stream, asked):
        by_prompt[group.prompt.id] = group
        on_group()
    return tuple(by_prompt[prompt.id] for prompt, _ in asked)


def stream_groups(
    stream: SampleStream, asked: Asked, on_sample: Callable[[], None] = lambda: None
) -> Iterator[Group]:
    """Judged groups as they complete, in any order.

    Args:
        on_sample: called after each sample.
    """
    opened = {prompt.id: OpenGroup(prompt, len(requests)) for prompt, requests in asked}
    for prompt, requests in asked:
        stream.ask(prompt, requests)
    while opened:
        for sample in stream.wait():
            on_sample()
            group = opened[sample.prompt.id]
            group.add(sample)
            if group.is_complete:
                del opened[sample.prompt.id]
                yield group.close()
