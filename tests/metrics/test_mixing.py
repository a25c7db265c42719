"""Mixing against direct O(n^2) sums, arviz where it is installed, and processes whose autocorrelation time is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from dither import metrics


def ar1(rho: float, chains: int, steps: int, seed: int = 0, shift: float = 0.0) -> torch.Tensor:
    """Stationary x_t = rho x_{t-1} + noise, whose integrated autocorrelation time is (1 + rho) / (1 - rho)."""
    noise = np.random.default_rng(seed).standard_normal((chains, steps))
    x = np.empty_like(noise)
    x[:, 0] = noise[:, 0] / math.sqrt(1 - rho**2)
    for t in range(1, steps):
        x[:, t] = rho * x[:, t - 1] + noise[:, t]
    return torch.tensor(x + shift * np.arange(chains)[:, None])


def slow_autocovariance(x: np.ndarray) -> np.ndarray:
    n, centred = len(x), x - x.mean()
    return np.array([sum(centred[s] * centred[s + t] for s in range(n - t)) / n for t in range(n)])


def slow_halves(x: torch.Tensor) -> np.ndarray:
    half = x.shape[1] // 2
    return np.array([part for chain in x.double().numpy() for part in (chain[:half], chain[len(chain) - half :])])


def slow_scores(halves: np.ndarray) -> np.ndarray:
    rank = stats.rankdata(halves, method="average").reshape(halves.shape)
    return stats.norm.ppf((rank - 3 / 8) / (halves.size + 1 / 4))


def slow_size(halves: np.ndarray) -> float:
    """The loop over lags as the paper tells it: grow while pairs are positive, flatten what rises, sum."""
    chains, n = halves.shape
    covariance = np.mean([slow_autocovariance(chain) for chain in halves], 0)
    within = np.mean(halves.var(1, ddof=1))
    total = (n - 1) / n * within + halves.mean(1).var(ddof=1)
    rho = 1 - (within - covariance) / total
    rho[0] = 1.0
    pairs, lag = [], 0
    while lag + 1 <= n - 2 and rho[lag] + rho[lag + 1] > 0:
        pairs.append(rho[lag] + rho[lag + 1])
        lag += 2
    if lag + 1 > n - 2:
        lag -= 2
        pairs.pop()
    for k in range(1, len(pairs)):
        pairs[k] = min(pairs[k], pairs[k - 1])
    tau = -1 + 2 * sum(pairs) + max(rho[lag], 0)
    return chains * n / max(tau, 1 / math.log10(chains * n))


def slow_r_hat(halves: np.ndarray) -> float:
    n = halves.shape[1]
    between, within = n * halves.mean(1).var(ddof=1), halves.var(1, ddof=1).mean()
    return math.sqrt(((n - 1) / n * within + between / n) / within)


CASES = {
    "independent": ar1(0.0, 4, 60),
    "slow": ar1(0.9, 4, 61, seed=1),
    "alternating": ar1(-0.6, 3, 80, seed=2),
    "apart": ar1(0.3, 4, 50, seed=3, shift=2.0),
    "one chain": ar1(0.5, 1, 101, seed=4),
    "ties": (4 * torch.rand(4, 64, generator=torch.Generator().manual_seed(5))).floor(),
    "short": ar1(0.5, 2, 12, seed=6),
    "drift": ar1(0.2, 4, 80, seed=7) + torch.linspace(0, 8, 80),
    "heavy tails": torch.distributions.Cauchy(0.0, 1.0).icdf(torch.rand(4, 70, generator=torch.Generator().manual_seed(8))),
}


@pytest.mark.parametrize("name", CASES)
def test_against_direct_sums(name: str) -> None:
    x = CASES[name]
    halves, measured = slow_halves(x), metrics.mixing(x, first="chains")
    scores, folded = slow_scores(halves), slow_scores(np.abs(halves - np.median(halves)))
    assert float(metrics.effective_sample_size(x, first="chains", method="mean")) == pytest.approx(slow_size(halves), rel=1e-9)
    assert float(measured.ess) == pytest.approx(slow_size(scores), rel=1e-9)
    assert float(measured.iat) == pytest.approx(halves.size / slow_size(halves), rel=1e-9)
    assert float(measured.r_hat) == pytest.approx(max(slow_r_hat(scores), slow_r_hat(folded)), rel=1e-9)
    assert (int(measured.stuck), measured.chains, measured.steps) == (0, *x.shape)
    direct = np.array([c / c[0] for c in map(slow_autocovariance, x.double().numpy())])
    assert np.allclose(metrics.autocorrelation(x, first="chains"), direct, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_against_arviz(name: str) -> None:
    arviz = pytest.importorskip("arviz")
    x = CASES[name].double().numpy()
    for method in ("bulk", "mean"):
        assert float(metrics.effective_sample_size(CASES[name], first="chains", method=method)) == pytest.approx(
            arviz.ess(x, method=method)
        )
    if len(x) > 1:
        assert float(metrics.split_r_hat(CASES[name], first="chains")) == pytest.approx(arviz.rhat(x))


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.8, 0.95])
def test_the_time_of_an_autoregression_is_the_known_one(rho: float) -> None:
    # 40 chains of 20,000 steps; the estimate's own error is about 1% at rho = .95, seen over seeds.
    x, known = ar1(rho, 40, 20_000, seed=11), (1 + rho) / (1 - rho)
    assert float(metrics.integrated_autocorrelation_time(x, first="chains")) == pytest.approx(known, rel=0.04)
    assert float(metrics.effective_sample_size(x, first="chains", method="mean")) == pytest.approx(x.numel() / known, rel=0.04)
    lags = metrics.autocorrelation(x, first="chains")[:, :4].mean(0)
    assert np.allclose(lags, [rho**t for t in range(4)], rtol=0, atol=0.01)


def test_quantities_are_measured_one_by_one_and_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.stack([CASES["independent"], ar1(0.9, 4, 60), ar1(0.3, 4, 60, shift=3.0)], -1)
    whole = metrics.mixing(x, first="chains")
    for block in (1, 2 * x.shape[0] * x.shape[1]):
        monkeypatch.setattr("dither.metrics._chains.BLOCK", block)
        parts = metrics.mixing(x, first="chains")
        for field in ("ess", "r_hat", "iat", "stuck"):
            assert torch.equal(getattr(parts, field), getattr(whole, field))
        assert torch.equal(
            metrics.autocorrelation(x, first="chains")[..., 1], metrics.autocorrelation(x[..., 1], first="chains")
        )
    for i in range(3):
        alone = metrics.mixing(x[..., i], first="chains")
        assert alone.ess.shape == () and torch.allclose(alone.ess, whole.ess[i]) and torch.allclose(alone.iat, whole.iat[i])
    assert whole.r_hat[0] < 1.05 and whole.r_hat[2] > 1.5 and whole.ess.dtype == torch.float64


def test_a_stuck_chain_is_no_perfect_chain() -> None:
    # 43 times .1 do not sum to 43 times .1: a stuck chain is no constant any more once its mean is subtracted.
    x = torch.stack([ar1(0.0, 4, 43), torch.full((4, 43), 0.1, dtype=torch.float64), ar1(0.0, 4, 43, seed=1)], -1)
    x[2, :, 2] = x[2, 0, 2]
    measured = metrics.mixing(x, first="chains")
    assert measured.stuck.tolist() == [0, 4, 1] and measured.stuck.dtype == torch.int64
    for value in (measured.ess, measured.r_hat, measured.iat):
        assert value.isnan().tolist() == [False, True, True]
    assert metrics.autocorrelation(x, first="chains")[:, 5].isnan().tolist() == [[False, True, i == 2] for i in range(4)]
    assert int(metrics.mixing(torch.zeros(4, 40, dtype=torch.bool), first="chains").stuck) == 4


def test_r_hat_sees_scales_and_drifts() -> None:
    noise = ar1(0.0, 4, 500)
    assert float(metrics.split_r_hat(noise, first="chains")) < 1.01
    assert float(metrics.split_r_hat(noise * torch.tensor([[1.0], [1.0], [1.0], [4.0]]), first="chains")) > 1.05, (
        "by the fold alone"
    )
    assert float(metrics.split_r_hat(noise + torch.linspace(0, 2, 500), first="chains")) > 1.05, "by the halves alone"


def test_coins_and_chains_that_stand_still_for_half_the_time() -> None:
    coin = torch.tensor([[0, 1] * 20, [1, 0] * 20])
    assert float(metrics.split_r_hat(coin, first="chains")) == pytest.approx(math.sqrt(19 / 20)), (
        "|x - 1/2| is a constant and says nothing"
    )
    still = torch.tensor([[0.0] * 20 + [1.0] * 20] * 4)
    assert float(metrics.split_r_hat(still, first="chains")) > 1e6
    assert float(metrics.effective_sample_size(still, first="chains")) < 30


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(50), r"x has shape \(50,\), expected \(chains, steps\).*unsqueeze"),
        (torch.zeros(4, 50, 2, 2), r"shape \(4, 50, 2, 2\)"),
        (torch.zeros(0, 50), r"shape \(0, 50\)"),
        (torch.zeros(4, 50, 0), r"shape \(4, 50, 0\)"),
        (torch.zeros(4, 11), "x has 11 steps, at least 12 are needed"),
        (torch.ones(4, 50).index_fill(1, torch.tensor([7]), torch.nan), r"x\[0, 7\] is nan, expected finite"),
        (torch.ones(4, 50).index_fill(0, torch.tensor([3]), torch.inf), r"x\[3, 0\] is inf"),
        (torch.zeros(4, 50, dtype=torch.complex64), "x is torch.complex64"),
        ([[0.0] * 50] * 4, "x is list, expected a tensor"),
    ],
)
def test_bad_input_is_refused_by_all(x, message: str) -> None:
    functions = (
        metrics.mixing,
        metrics.autocorrelation,
        metrics.integrated_autocorrelation_time,
        metrics.effective_sample_size,
        metrics.split_r_hat,
    )
    for function in functions:
        with pytest.raises(ValueError, match=message):
            function(x, first="chains")


def test_another_method_is_refused() -> None:
    with pytest.raises(ValueError, match="method is 'tail', expected one of bulk, mean"):
        metrics.effective_sample_size(CASES["slow"], first="chains", method="tail")


def test_the_order_of_dimensions_is_said_and_both_are_the_same() -> None:
    x = torch.stack((CASES["independent"], CASES["slow"][:, :60]), -1)
    ours, theirs = metrics.mixing(x, first="chains"), metrics.mixing(x.transpose(0, 1), first="steps")
    for field in ("ess", "r_hat", "iat", "stuck"):
        assert torch.equal(getattr(ours, field), getattr(theirs, field))
    assert (ours.chains, ours.steps) == (theirs.chains, theirs.steps) == (4, 60)
    for function in (metrics.autocorrelation, metrics.split_r_hat, metrics.effective_sample_size):
        assert torch.equal(function(x, first="chains"), function(x.transpose(0, 1), first="steps"))
    for function in (metrics.mixing, metrics.autocorrelation, metrics.split_r_hat, metrics.class_switches):
        with pytest.raises(ValueError, match=r"first is None for \w+ of shape \(4, 60\): .*first='steps'.*chains.run"):
            function(torch.zeros(4, 60, dtype=torch.int64))
