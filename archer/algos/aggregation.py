"""How per-token losses become one number: the weight of each token in the whole mini-batch.

A micro-batch then back-propagates a plain weighted sum, so that neither its size nor the number of
ranks can change the gradient. Every function takes

    lengths: int64 [N], tokens of each response that enter the loss;
    group_ids: int64 [N], the prompt each response belongs to;
    max_response_tokens: the configured response limit, a constant of the run;

and returns float64 [N], the weight of one loss token of response i. Responses without loss tokens
get 0 and count nowhere. Runs on the driver: numpy only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

AggregationFn = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def token_mean(lengths: np.ndarray, group_ids: np.ndarray, max_response_tokens: int) -> np.ndarray:
    """All tokens alike (DAPO, arXiv 2503.14476)."""
    return _where_nonempty(lengths, _reciprocal(lengths.sum()))


def seq_mean_token_mean(
    lengths: np.ndarray, group_ids: np.ndarray, max_response_tokens: int
) -> np.ndarray:
    """All responses alike, each the mean of its tokens (GRPO, arXiv 2402.03300)."""
    return _reciprocal(_num_responses(lengths) * lengths)


def seq_mean_token_sum(
    lengths: np.ndarray, group_ids: np.ndarray, max_response_tokens: int
) -> np.ndarray:
    """Mean over responses of the sum of their tokens, as in RLOO (arXiv 2402.14740)."""
    return _where_nonempty(lengths, _reciprocal(_num_responses(lengths)))


def seq_sum_norm(
    lengths: np.ndarray, group_ids: np.ndarray, max_response_tokens: int
) -> np.ndarray:
    """Mean over responses of their token sum over a constant (Dr. GRPO, arXiv 2503.20783)."""
    return seq_mean_token_sum(lengths, group_ids, max_response_tokens) / max_response_tokens


def group_token_mean(
    lengths: np.ndarray, group_ids: np.ndarray, max_response_tokens: int
) -> np.ndarray:
    """All prompts alike, each the mean of its tokens: arXiv 2503.14476 to the letter."""
    _, group = np.unique(group_ids, return_inverse=True)
    group_tokens = np.bincount(group, weights=lengths)
    return _where_nonempty(
        lengths, _reciprocal(np.count_nonzero(group_tokens) * group_tokens[group])
    )


def _num_responses(lengths: np.ndarray) -> int:
    return int(np.count_nonzero(lengths))


def _reciprocal(counts: np.ndarray | float) -> np.ndarray:
    """1 / counts, and 0 where there is nothing to count."""
    counts = np.asarray(counts, dtype=np.float64)
    return np.divide(1.0, counts, out=np.zeros_like(counts), where=counts > 0)


def _where_nonempty(lengths: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.where(lengths > 0, weights, 0.0)


AGGREGATIONS: dict[str, AggregationFn] = {
    "token-mean": token_mean,
    "seq-mean-token-mean": seq_mean_token_mean,
    "seq-mean-token-sum": seq_mean_token_sum,
    "seq-sum-norm": seq_sum_norm,
    "group-token-mean": group_token_mean,
}
