"""Consistency in small spaces: counts and walks against enumeration, theory against simulation, a tiny run."""

import math
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from scipy import stats

from dither import chains, corruption, metrics
from dither.chains import Denoiser
from dither.experiments.gdae_consistency import clamped, counts, curve, energies, spaces
from dither.experiments.gdae_consistency.experiment import Config, figures, run

TINY = Config(
    spaces=("ten", "binary-5"), sizes=(1000, 10_000, 40_000), seeds=(0, 1), rounds=4, clamped_sizes=(10_000,), recovered=2000,
    examples=200, choosing=50, chains=20, burn_in=2, points=(12,),
)  # fmt: skip


@pytest.fixture(scope="module")
def result() -> dict:
    return run(TINY, Path(), lambda text: None)


def value(result: dict, *words: str) -> float:
    """Of the one row whose texts hold these words."""
    (row,) = (r for r in result["rows"] if all(any(w == v for v in r.values()) for w in words))
    return row["value"]


# --- spaces and theory ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", spaces.SPACES)
def test_a_space_is_a_distribution_and_a_corruption_that_connects_it(name: str) -> None:
    place = spaces.space(name)
    assert float(place.data.min()) > 0 and float(place.data.sum()) == pytest.approx(1)
    torch.testing.assert_close(place.corruption.sum(1), torch.ones_like(place.data))
    assert metrics.kl(place.data, spaces.stationary(place.corruption, place.reconstruction)) < 1e-12
    irregular = float(place.data.std() / place.data.mean())
    assert irregular > 0.5  # on a uniform distribution there would be little to learn


def test_the_binary_corruption_is_the_library_s_own() -> None:
    place, corrupt = spaces.space("binary-5"), corruption.SaltAndPepper(spaces.RATE)
    torch.manual_seed(0)
    samples = corrupt(place.states[11].expand(50_000, 5).float())
    frequencies = torch.bincount((samples @ torch.tensor([16.0, 8, 4, 2, 1])).long(), minlength=32)
    assert stats.chisquare(frequencies, place.corruption[11] * 50_000).pvalue > 1e-3


@pytest.mark.parametrize("times", [1, 2])
def test_the_price_of_corruption_is_what_counting_pays(times: int) -> None:
    """2 n KL in the mean of 250 training sets, against the formula of the eigenvalues."""
    place, n = spaces.space("ten"), 50_000
    method = {1: "count", 2: "count x2"}[times]
    estimates = [next(d for name, d in counts.estimates(place, n, seed, 4) if name == method) for seed in range(250)]
    scaled = torch.tensor([2 * n * metrics.kl(place.data, distribution) for distribution in estimates])
    expected = spaces.price(spaces.eigenvalues(place.corruption, place.reconstruction), times)
    error = float(scaled.std()) / 250**0.5
    assert abs(float(scaled.mean()) - expected) < 3 * error
    assert error < 0.55 and expected > 10.5  # it tells 12.88 and 10.94 from 9, which the examples alone would pay


def test_walks_make_the_gap_its_square_root() -> None:
    for eigen in (0.3, 0.9, 0.99):
        assert spaces.walked(eigen, spaces.geometric(0.5)) == pytest.approx(1 - math.sqrt(1 - eigen), abs=1e-8)
    place = spaces.space("ten")
    eigen = spaces.eigenvalues(place.corruption, place.reconstruction)
    walked = spaces.eigenvalues(place.corruption, spaces.fixed_point(place, spaces.geometric(0.5)))
    torch.testing.assert_close(walked, 1 - (1 - eigen).sqrt(), rtol=0, atol=1e-8)


# --- counts and walks -------------------------------------------------------------------------------------------------
def test_moving_counts_is_moving_each() -> None:
    rng = np.random.default_rng(0)
    rows = np.array([[0.2, 0.8, 0.0], [0.0, 0.5, 0.5]])
    start = np.array([[40_000, 0], [10_000, 30_000]])
    moved = counts.move(rng, start, rows)
    assert (moved.sum(1) == start.sum(1)).all() and moved[0, 2] == 0
    assert stats.chisquare(moved[1], start[1] @ rows).pvalue > 1e-3


@pytest.mark.parametrize("steps", [None, counts.STEPS])
def test_the_pairs_of_walks_follow_the_walk_s_corruption(steps: int | None) -> None:
    place, n = spaces.space("ten"), 200_000
    rng = np.random.default_rng(1)
    examples = rng.multinomial(n, place.data.numpy())
    learned = spaces.bayes(place.data.flip(0), place.corruption)  # some P(x | x~), not the true one
    pairs = counts.walk_pairs(rng, examples, place.corruption.numpy(), learned.numpy(), steps)
    total = int(pairs.sum())
    assert total == 5 * n if steps else abs(total - 2 * n) < 5 * (2 * n) ** 0.5
    weights = [1 / counts.STEPS] * counts.STEPS if steps else spaces.geometric(counts.CONTINUE)
    share = torch.from_numpy(examples / n).unsqueeze(1) * spaces.walk_corruption(place.corruption, learned, weights)
    # The pairs of one walk depend on each other, which spreads the statistic a little beyond that of independent ones.
    expected = (share.T * total).numpy()
    statistic = float(((pairs - expected) ** 2 / expected).sum())
    assert statistic < 100 + 6 * math.sqrt(2 * 100) + 100
    plain = (torch.from_numpy(examples / n).unsqueeze(1) * place.corruption).T.numpy() * total
    assert float(((pairs - plain) ** 2 / np.maximum(plain, 1)).sum()) > 10_000  # it is not the corruption alone


def test_a_walk_of_fixed_length_pays_for_its_examples_only_and_a_random_one_more() -> None:
    place, n = spaces.space("ten-local"), 20_000
    scaled: dict[str, list[float]] = {}
    for seed in range(12):
        for method, distribution in counts.estimates(place, n, seed, 12):
            scaled.setdefault(method, []).append(2 * n * metrics.kl(place.data, distribution))
    mean = {method: fmean(values) for method, values in scaled.items()}
    assert mean["walkback 5 steps"] < 1.2 * mean["empirical"] < 0.6 * mean["count x5"]
    assert mean["walkback p=.5"] > 1.5 * mean["empirical"] and mean["walkback p=.5, 4 walks"] < mean["walkback p=.5"]


def test_where_a_state_was_not_seen_there_is_no_kl(result: dict) -> None:
    points = [r for r in result["curves"] if r["figure"] == "kl" and r["space"] == "binary-5"]
    small, large = ([r for r in points if r["n"] == n] for n in (1000, 40_000))
    assert all(r["lacking"] > 0 and r["kl"] is None and r["reverse_kl"] > 0 for r in small)
    assert all(r["lacking"] == 0 and 0 < r["kl_min"] <= r["kl"] <= r["kl_max"] for r in large)
    assert value(result, "binary-5", "n of full support") == 10_000
    place = spaces.space("ten")  # finite, thanks to uniform rows for what was not seen: no honest number either
    assert counts.point(place, "count", 100, 1, [place.data.flip(0)])["kl"] is None
    assert counts.point(place, "count", 100, 0, [place.data.flip(0)])["kl"] > 0.1


# --- the findings of a tiny run ---------------------------------------------------------------------------------------
def test_what_is_exact_is_exact(result: dict) -> None:
    for method in (counts.WALK, counts.FIXED):
        assert value(result, "ten", method, "KL(data, chain)") < 1e-10
    for method in ("exact P", "exact P, clamped units not corrupted"):
        assert all(value(result, "binary-5", method, f"largest {name}") < 1e-10 for name in clamped.NAMES[:2])
    assert value(result, "exact P", "largest error") < 1e-10


def test_kl_falls_like_one_over_n(result: dict) -> None:
    slopes = [r["slope"] for r in result["rows"] if r["part"] == "counts" and r["space"] == "binary-5" and r.get("slope")]
    assert len(slopes) == len(counts.METHODS) and all(-1.5 < slope < -0.5 for slope in slopes)


def test_a_factorised_reconstruction_breaks_clamping(result: dict) -> None:
    head = "largest " + clamped.NAMES[0]
    spoilt = value(result, "binary-5", "factorised P", head)
    assert spoilt > 0.1 and value(result, "binary-5", "factorised P, clamped units not corrupted", head) < spoilt
    assert value(result, "binary-5", "factorised P", "largest " + clamped.NAMES[1]) > 0.01  # nor is it its own conditional


def test_the_smallest_example_by_simulation() -> None:
    """Two units through `Denoiser`, the first clamped: how often the second is the same."""
    place = clamped.two_units()
    means = (place.reconstruction @ place.states).float()

    class Factorised:
        def sample(self, corrupted, clamp=None, values=None):
            samples = torch.bernoulli(means[(corrupted @ torch.tensor([2.0, 1.0])).long()])
            return samples if clamp is None else torch.where(clamp, values, samples)

    chain, start = Denoiser(corruption.SaltAndPepper(spaces.RATE), Factorised()), torch.zeros(40_000, 2)
    rows = {row["method"]: row["value"] for row in clamped.example()}
    clamped_x = chains.run(chain, start, 1, burn_in=15, clamp=torch.tensor([True, False]), seed=0).x[0]
    assert float((clamped_x[:, 1] == 0).float().mean()) == pytest.approx(rows["factorised P, clamped chain"], abs=0.01)
    x = chains.run(chain, start, 1, burn_in=15, seed=0).x[0]
    same = x[x[:, 0] == 0][:, 1] == 0
    assert float(same.float().mean()) == pytest.approx(rows["factorised P, unclamped chain"], abs=0.015)
    assert rows["data"] == 0.9 and rows["factorised P, unclamped chain"] - rows["factorised P, clamped chain"] > 0.04


def test_every_mask_and_every_value_is_clamped_once() -> None:
    pairs = {(tuple(mask.tolist()), tuple(values[mask].tolist())) for mask, values in clamped.clamps(spaces.space("binary-5"))}
    assert len(pairs) == len(list(clamped.clamps(spaces.space("binary-5")))) == 3**5 - 1 - 2**5


def test_energies_from_far_are_worse_than_from_near() -> None:
    rows = list(energies.by_distance(spaces.space("binary-5"), 100_000, (0, 1, 2)))
    errors = [row["value"] for row in rows]
    assert errors == sorted(errors) and errors[3] > 2 * errors[0]
    (path, own) = energies.along_the_ring(spaces.space("ten"), (10_000, 1_000_000), (0, 1, 2))
    assert path["value"] < 0.05 and -0.75 < path["slope"] < -0.25 and own["value"] < 0.05


# --- the curve --------------------------------------------------------------------------------------------------------
def test_the_curve_s_density_and_distance() -> None:
    """On the curve the density is that along it, times that of nine Gaussian units across it, curvature aside."""
    ring = curve.Curve()
    assert float(ring.points.min()) == pytest.approx(-1) and float(ring.points.max()) == pytest.approx(1.5)
    at = torch.tensor([0, 3000, 9000, 15_000])
    speed = (ring.points[at + 1] - ring.points[at]).norm(dim=1) * curve.GRID
    expected = ring.weights[at] * curve.GRID / speed / (2 * math.pi * curve.NOISE**2) ** 4.5
    torch.testing.assert_close(ring.log_density(ring.points[at]), expected.log(), rtol=0, atol=0.02)
    tangent = ring.points[at + 1] - ring.points[at]
    across = torch.randn(4, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    across -= (across * tangent).sum(1, keepdim=True) / tangent.square().sum(1, keepdim=True) * tangent
    across *= 0.02 / across.norm(dim=1, keepdim=True)
    distance, arc = ring.nearest(ring.points[at] + across)
    torch.testing.assert_close(distance, torch.full((4,), 0.02, dtype=torch.float64), rtol=0.01, atol=0)
    torch.testing.assert_close(arc, ring.arc[at], rtol=0, atol=1e-3)
    _, arcs = ring.nearest(ring.sample(2000, torch.Generator().manual_seed(0)))
    first = float((arcs < ring.arc[curve.GRID // 4]).double().mean())
    assert first == pytest.approx(float(ring.weights[: curve.GRID // 4].sum()), abs=0.04)  # .377


def test_generated_points_lie_near_the_curve(result: dict) -> None:
    near = value(result, "held out", "mean distance to the curve")
    assert near == pytest.approx(curve.NOISE * 3, rel=0.1)  # nine units across, of which the mean radius is 2.9
    assert value(result, "chain from the data", "mean distance to the curve") < 3 * near
    measure = "TV(arc length, held out)"
    assert value(result, "chain from one point", measure) > value(result, "chain from the data", measure)


# --- figures and the command ------------------------------------------------------------------------------------------
def test_figures(result: dict) -> None:
    plots = dict(figures(result["curves"]))
    assert list(plots) == ["kl", "recovered", "r10"]
    assert [ax.get_title(loc="left") for ax in plots["kl"].axes] == ["ten", "binary-5"]
    (bars,) = plots["recovered"].axes
    assert bars.get_yscale() == "linear" and len(bars.patches) == 40
    for name in ("data", "examples", "chain, exactly", "chain, samples"):
        shares = [r["probability"] for r in result["curves"] if r.get("distribution") == name]
        assert sum(shares) == pytest.approx(1, abs=1e-3) and shares == pytest.approx(list(spaces.TEN), abs=0.06)
    assert len([r for r in result["curves"] if r["figure"] == "r10"]) <= 1000


def test_what_cannot_be_run_is_refused() -> None:
    with pytest.raises(ValueError, match="no space 'six'; the spaces are ten"):
        run(Config(spaces=("six",)), Path())
    with pytest.raises(ValueError, match="rounds is 2"):
        run(Config(rounds=2), Path())
