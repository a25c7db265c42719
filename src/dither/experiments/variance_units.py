"""How the variance of every estimator's gradient grows with the number of stochastic binary units.

The open question at the end of Bengio 2013, "Estimating or propagating gradients through stochastic neurons". What is compared
is noise to signal: the total variance of one draw of the gradient (all coordinates, one example) over |true gradient|^2, and
the squared bias over the same. Of width, one layer of n units, and of depth, layers of `depth_width` units; the cost as one
number ("global") and as one term for each group of four units ("local"), of which dither finds which unit influences which.
The problem and why its signal is comparable over n: `experiments._units`.

`how`: "exact" is a sum over all joint outcomes (`exact.moments`), where there are few; "measured" an average over independent
draws, with its standard error. Where both are there they must agree: `worst_z` is their greatest distance in standard errors.
Baselines and other state are learned first (Mixture's on one example a call, because its weights depend on the batch's
noise) and then left as they are. Growth is the slope of log(noise) against log(units) from `fit_from` units on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dither.experiments._growth import Key, Point, curve, growth


@dataclass(frozen=True)
class Method:
    """build: model -> estimator. batched: one call gives a draw for each example; learn_single: its state is learned on one
    example a call; summed: `exact.moments` has its variance (it has only the mean of one that uses the noise's value)."""

    build: Callable[[Any], Any]
    batched: bool = True
    learn_single: bool = False
    summed: bool = True


def _named(name: str, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
    def build(model: Any) -> Any:
        import dither

        return getattr(dither, name)(model, *arguments, **options)

    return build


METHODS: dict[str, Method] = {
    "score-none": Method(_named("ScoreFunction")),
    "score-mean": Method(_named("ScoreFunction", "mean", decay=0.9)),
    "score-optimal": Method(_named("ScoreFunction", "optimal", decay=0.9)),
    "score-leave-one-out-2": Method(_named("ScoreFunction", "leave-one-out", samples=2)),
    "disarm": Method(_named("DisARM")),
    "arms-3": Method(_named("ARMS", samples=3)),
    "muprop": Method(_named("MuProp")),
    "double-cv": Method(_named("DoubleCV", decay=0.9)),
    "rebar": Method(_named("REBAR", decay=0.9), summed=False),
    "local-expectation": Method(_named("LocalExpectation")),
    "mixture-prediction": Method(_named("Blend", "prediction"), learn_single=True),
    "mixture-control-variate": Method(_named("Blend", "control-variate"), learn_single=True),
    "straight-through": Method(_named("StraightThrough")),
    "reinmax": Method(_named("ReinMax")),
    "node-perturbation": Method(_named("NodePerturbation"), summed=False),
    "spsa": Method(_named("SPSA", 0.1), batched=False, summed=False),
}


@dataclass(frozen=True)
class Config:
    """How the variance of every estimator's gradient grows with the number of stochastic units."""

    methods: tuple[str, ...] = tuple(METHODS)
    widths: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    """units of one layer"""
    depths: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    depth_width: int = 16
    """units of each layer, where the depth is varied"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """a problem for each"""
    draws: int = 2048
    """of each gradient; fewer where they exceed `work`"""
    single_draws: int = 200
    """of methods that give one draw a call"""
    work: int = 1 << 19
    """the most units times runs times draws of one measurement"""
    warmup: int = 16
    """calls that learn baselines, of up to 256 examples each"""
    single_warmup: int = 100
    """calls that learn a Mixture, of one example each"""
    max_outcomes: int = 1 << 12
    """the most joint outcomes to sum over"""
    fit_from: int = 16
    """units, of which the growth is fitted"""
    quick: bool = False
    """a few sizes, draws and one problem"""
    threads: int = 1


def run(config: Config, folder: Path, progress: Callable[[str], Any] = print) -> dict[str, Any]:
    """{"rows": the growth of each method, "curves": noise and bias at every size}."""
    import torch

    unknown = [name for name in config.methods if name not in METHODS]
    if unknown:
        raise ValueError(f"there is no method {', '.join(map(repr, unknown))}; choose among {', '.join(METHODS)}")
    if config.quick:
        config = _small(config)
    torch.set_num_threads(config.threads)
    found: dict[Key, list[Point]] = defaultdict(list)
    for part, width, layers in _sizes(config):
        for seed in config.seeds:
            for key, point in _measured(config, width, layers, seed):
                found[part, width * layers, layers, *key].append(point)
        progress(f"{part}: {width * layers} units")
    return {"rows": growth(found, config.fit_from), "curves": [curve(key, points) for key, points in found.items()]}


def figures(curves: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """(name, figure): noise against units, global beside local, for width and for depth."""
    from dither.plots import variance_growth

    for part in dict.fromkeys(row["part"] for row in curves):
        rows = [row for row in curves if row["part"] == part]
        yield f"variance-{part}", variance_growth.draw(rows, title=f"{part}: variance / |gradient|² of one draw")


def _small(config: Config) -> Config:
    return replace(
        config, widths=(1, 4, 8, 16), depths=(1, 2), depth_width=8, seeds=config.seeds[:1], draws=256, single_draws=20,
        warmup=3, single_warmup=25, max_outcomes=256, fit_from=4,
    )  # fmt: skip


def _sizes(config: Config) -> Iterator[tuple[str, int, int]]:
    yield from (("width", width, 1) for width in config.widths)
    yield from (("depth", config.depth_width, layers) for layers in config.depths)


# --- one size -----------------------------------------------------------------------------------------------------------
def _measured(config: Config, width: int, layers: int, seed: int) -> Iterator[tuple[tuple[str, str, str], Point]]:
    """((credit, method, how), point) for all that can be found of one problem."""
    import torch

    from dither.experiments._units import Units

    problem = Units(width, layers, seed)
    truth = problem.gradient()
    for name in config.methods:
        for credit in ("global", "local"):
            estimator = METHODS[name].build(problem)
            if credit == "local" and not estimator.local_credit:
                continue  # it would be the same again

            def closure(local: bool = credit == "local") -> Any:
                terms = problem.costs()
                return terms if local else terms.sum(1)

            torch.manual_seed(seed)
            problem.replicate(1)
            estimator(closure)  # finds the layout, and with one example, for little, the locality
            rows = _rows(config, METHODS[name], estimator, width * layers)
            _learn(config, METHODS[name], estimator, problem, closure, rows)
            drawn = draw(estimator, problem, closure, rows, METHODS[name].batched)
            yield (credit, name, "measured"), _point(seed, estimator, truth, *drawn)
            point = _exact(config, METHODS[name], estimator, problem, closure)
            if point is not None:
                yield (credit, name, "exact"), _point(seed, estimator, truth, *point)


def _rows(config: Config, method: Method, estimator: Any, units: int) -> int:
    if not method.batched:
        return config.single_draws
    return max(4, min(config.draws, config.work // (units * estimator.evaluations)))


def _learn(config: Config, method: Method, estimator: Any, problem: Any, closure: Any, rows: int) -> None:
    if not estimator.state_dict():
        return
    problem.replicate(1 if method.learn_single else min(rows, 256))
    for _ in range(config.single_warmup if method.learn_single else config.warmup):
        estimator(closure)


def draw(estimator: Any, problem: Any, closure: Any, rows: int, batched: bool = True) -> tuple[Any, Any, Any, Any]:
    """(mean, variance, its standard error in all, of the mean's) over independent draws: (layers, width) the first two."""
    import torch

    calls, examples = (1, rows) if batched else (rows, 1)
    problem.replicate(examples)
    parts = []
    with estimator.frozen():
        for _ in range(calls):
            (gradient,) = torch.autograd.grad(estimator(closure), problem.logits)
            parts.append(gradient * len(gradient))
    draws = torch.cat(parts)
    mean, variance = draws.mean(0), draws.var(0)
    distance = (draws - mean).square().flatten(1).sum(1)
    return mean, variance, float(distance.std()) / len(draws) ** 0.5, variance / len(draws)


def _exact(config: Config, method: Method, estimator: Any, problem: Any, closure: Any) -> tuple[Any, ...] | None:
    import torch

    from dither import exact

    problem.replicate(1)
    if not (method.summed and exact.outcomes(estimator, closure) <= config.max_outcomes):
        return None
    moments = exact.moments(estimator, closure, max_outcomes=config.max_outcomes)
    mean, variance = moments.mean["logits"][0], moments.variance["logits"][0]
    return mean, variance, 0.0, torch.zeros_like(mean)


def _point(seed: int, estimator: Any, truth: Any, mean: Any, variance: Any, error: float, mean_error: Any) -> Point:
    bias = mean - truth
    spread = 4 * (bias.square() * mean_error).sum() + 2 * mean_error.square().sum()
    return Point(
        seed=seed,
        evaluations=estimator.evaluations,
        signal=float(truth.square().sum()),
        variance=float(variance.sum()),
        variance_error=error,
        bias2=float(bias.square().sum() - mean_error.sum()),
        bias2_error=float(spread.sqrt()),
        first_signal=float(truth[0].square().sum()),
        first_variance=float(variance[0].sum()),
    )
