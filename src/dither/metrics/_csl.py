"""Conservative sampling-based log-likelihood: a metric in the data's own space, for models with factorised P(x | h)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dither.metrics._distances import points, rows_of, same_units


def csl(
    logits: Tensor, test: Tensor, *, counts: Sequence[int] | None = None, chunk: int | None = None
) -> list[dict[str, float]]:
    """log mean_h P(x | h) over the states h of a chain: a lower bound of log P(x) in expectation, tighter with more.

    Formula     log (1/n) Σ_i Π_j p_ij^x_j (1 - p_ij)^(1 - x_j), p = sigmoid(logits); for all pairs at once
                logits @ xᵀ + Σ_j log sigmoid(-logits), then a running log-sum-exp over the states. In float64.
    Shapes      logits (n, units): of P(x | h), one row per chain state; test (m, units) of 0 and 1.
    counts      numbers of states to report, rising, each of the first rows; by default 100, 1000 ... and all.
    Returns     for each count a dict of samples (the count), csl (mean over test, in nats) and standard_error (over the
                test examples; the randomness of the chain is not in it).
    chunk       states at a time, by default as many as make a block of 64 MB.
    Raises      ValueError for a test value other than 0 and 1, fewer than two test examples, counts that do not rise or
                exceed n, NaN, infinity (a unit that is certain has no finite logit: clamp it), or differing widths.
    Source      Bengio, Yao and Cho 2013, "Bounding the test log-likelihood of generative models".
    """
    logits, test = points("logits", logits), points("test", test)
    same_units("logits", logits, "test", test)
    if len(test) < 2:
        raise ValueError("test holds 1 example: a standard error needs at least 2")
    if not bool(((test == 0) | (test == 1)).all()):
        other = test[(test != 0) & (test != 1)][0]
        raise ValueError(f"test holds {float(other):.4g}: P(x | h) is of x in {{0, 1}}; binarise the data, e.g. x > 0.5")
    counts = _counts(counts, len(logits))
    columns = test.to(torch.float64).T
    size = rows_of(chunk, max(test.shape))
    total = torch.full((len(test),), -torch.inf, dtype=torch.float64, device=test.device)  # log Σ_h P(x | h) so far
    rows, done = [], 0
    for count in counts:
        for start in range(done, count, size):
            part = logits[start : min(start + size, count)].to(torch.float64)
            joint = part @ columns
            joint += torch.nn.functional.logsigmoid(-part).sum(1, keepdim=True)
            total = torch.logaddexp(total, torch.logsumexp(joint, 0))
        done = count
        value = total - math.log(count)
        error = float(value.std()) / math.sqrt(len(value))
        rows.append({"samples": count, "csl": float(value.mean()), "standard_error": error})
    return rows


def _counts(counts: Sequence[int] | None, states: int) -> list[int]:
    if counts is None:
        return [c for c in (10**i for i in range(2, 19)) if c < states] + [states]
    previous = 0
    for count in counts:
        if isinstance(count, bool) or not isinstance(count, int) or not previous < count <= states:
            raise ValueError(f"counts is {list(counts)}: rising whole numbers from 1 to the {states} rows of logits are needed")
        previous = count
    if not previous:
        raise ValueError("counts is empty: give at least one number of states")
    return list(counts)
