"""Quantiles and classes within a response."""

from itertools import pairwise

import pytest
import torch

from archer.algos.masks import above_quantile, row_counts, row_quantile


def ragged(*rows: list[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    values = torch.tensor([v for row in rows for v in row])
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    return values, torch.ones(len(values), dtype=torch.bool), offsets


@pytest.mark.parametrize(
    ("entropy", "threshold", "num_strict", "num_inclusive"),
    [
        ([0.1, 0.2, 0.3, 0.4, 2.0], 0.72, 1, 1),
        ([0.1, 0.5, 0.9], 0.74, 1, 1),
        ([0.1, 0.5], 0.42, 1, 1),
        ([0.7], 0.7, 0, 1),
        ([0.3, 0.3, 0.3, 0.3], 0.3, 0, 4),
        ([6.0, 1.0, 5.0, 2.0, 4.0, 3.0], 5.0, 1, 2),
    ],
)
def test_quantile_edges(entropy, threshold, num_strict, num_inclusive):
    values, mask, offsets = ragged(entropy)
    is_above, thresholds = above_quantile(values, mask, offsets, 0.8, strict=True)
    assert thresholds.tolist() == pytest.approx([threshold])
    assert is_above.sum() == num_strict
    assert above_quantile(values, mask, offsets, 0.8, strict=False)[0].sum() == num_inclusive


def test_agrees_with_torch_on_ragged_masked_rows():
    generator = torch.Generator().manual_seed(0)
    lengths = [1, 17, 0, 64, 3, 500]
    values = torch.rand(sum(lengths), generator=generator)
    mask = torch.rand(sum(lengths), generator=generator) < 0.7
    mask[0] = True
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    garbage = torch.where(mask, values, torch.nan)
    for q in (0.0, 0.25, 0.8, 1.0):
        ours = row_quantile(garbage, mask, offsets, q)
        for row, (start, end) in enumerate(pairwise(offsets)):
            kept = values[start:end][mask[start:end]]
            expected = torch.quantile(kept, q) if len(kept) else torch.tensor(torch.nan)
            torch.testing.assert_close(ours[row], expected, equal_nan=True)


def test_a_response_off_the_mask_has_no_threshold_and_no_class():
    values, mask, offsets = ragged([1.0, 2.0], [], [3.0, 9.0])
    mask[2:] = False
    is_above, thresholds = above_quantile(values, mask, offsets, 0.8, strict=False)
    assert thresholds.isnan().tolist() == [False, True, True]
    assert is_above.tolist() == [False, True, False, False]
    assert row_counts(mask, offsets).tolist() == [2, 0, 0]


def test_bfloat16_entropy_is_interpolated_in_float32():
    values, mask, offsets = ragged([16.0, 16.125])
    assert row_quantile(values.bfloat16(), mask, offsets, 0.8).tolist() == pytest.approx([16.1])


def test_no_responses_at_all():
    values, mask, offsets = ragged()
    assert len(row_quantile(values, mask, offsets, 0.8)) == 0
