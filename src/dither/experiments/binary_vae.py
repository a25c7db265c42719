"""Autoencoder with 200 binary latents by every estimator: training bound at equal steps and equal time, gradient variance.

The benchmark of DisARM, ARMS, Double CV and RODEO: 784-200-200-200 / 200-200-200-784, LeakyReLU(.3), Adam 1e-3, batches of
100, pixels drawn anew at every step, the first 50,000 training images, fixed fair prior, uncentred input (RODEO's code).
They train for 10^6 steps; the length here is a setting. One Adam at one rate trains model and prior.

Variances along each method's own training are not comparable, because better methods reach other networks. So besides,
every method's variance is measured on the snapshots of one run, that of `reference`, by the same draws of the same batch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import dither

# name -> (model -> estimator)
METHODS: dict[str, Callable[[Any], Any]] = {
    "straight-through": lambda model: dither.StraightThrough(model),
    "reinmax": lambda model: dither.ReinMax(model),
    "gumbel-softmax": lambda model: dither.GumbelSoftmax(model),
    "score-optimal": lambda model: dither.ScoreFunction(model, "optimal"),
    "leave-one-out-2": lambda model: dither.ScoreFunction(model, "leave-one-out", samples=2),
    "leave-one-out-3": lambda model: dither.ScoreFunction(model, "leave-one-out", samples=3),
    "arm": lambda model: dither.ARM(model),
    "disarm": lambda model: dither.DisARM(model),
    "arms-3": lambda model: dither.ARMS(model, samples=3),
    "muprop": lambda model: dither.MuProp(model),
    "rebar": lambda model: dither.REBAR(model),
    "relax": lambda model: dither.RELAX(model),
    "double-cv-2": lambda model: dither.DoubleCV(model, samples=2),
    "rodeo-2": lambda model: dither.RODEO(model, samples=2),
    "mixture": lambda model: dither.Blend(model),
    "mixture-control-variate": lambda model: dither.Blend(model, "control-variate"),
}
PLACES = ("methods", "seeds", "threads", "data_dir", "reference", "variance_draws", "variance_warmup")  # no run depends on them


@dataclass(frozen=True)
class Config:
    """Autoencoder with 200 binary latents by every estimator, at equal steps and equal time."""

    data: str = "mnist"
    """mnist, fashion_mnist, omniglot or digits"""
    methods: tuple[str, ...] = tuple(METHODS)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 100_000
    minutes: float | None = None
    """end each training after so many minutes of its own, if its steps are not over"""
    examples: int = 50_000
    """so many of the training images, the first, or all that there are"""
    hidden: tuple[int, ...] = (200, 200)
    latents: int = 200
    batch_size: int = 100
    lr: float = 1e-3
    prior: Literal["fixed", "learned"] = "fixed"
    kl: Literal["analytic", "sampled"] = "analytic"
    """sampled: the prior's and the posterior's logarithms are part of the cost that is credited, as in the papers"""
    centred: bool = False
    """subtract the mean image from the input and start the output's bias there"""
    record_every: int = 1000
    variance_at: tuple[int, ...] = (0, 1000, 10_000, 100_000)
    """steps at which networks are kept and the gradient's variance is measured; --variance-at without numbers: none"""
    variance_draws: int = 100
    variance_warmup: int = 200
    """calls of an estimator before the draws, for its moving averages and its own parameters"""
    reference: str = "leave-one-out-2"
    """the method whose networks all others are measured on"""
    bound_samples: int = 100
    """of the multi-sample bound on the test images, at the end"""
    threads: int = 1
    data_dir: Path | None = None


def run(config: Config, folder: Path, progress: Callable[[str], None] = print) -> dict[str, Any]:
    """Train every method with every seed; {"rows": a row per method, "curves": a row per method, seed and record}.

    Each training is a run folder below `folder`, and so is each measurement a file: finished ones are not repeated.
    Rows: train_elbo (mean over seeds, with least and most, over the last record_every steps), train_elbo_at_equal_time (at
    the time of the shortest training), test_bound, ms_per_step, and the variance per coordinate of the encoder's gradient
    as variance_STEP on the reference's networks and own_variance_STEP on the method's own.
    """
    import torch

    from dither import data

    if unknown := sorted({*config.methods, config.reference} - METHODS.keys()):
        raise ValueError(f"there is no method {', '.join(unknown)}; choose among {', '.join(METHODS)}")
    torch.set_num_threads(config.threads)
    dataset = data.load(config.data, config.data_dir)
    names = list(config.methods)
    extra = [config.reference] if config.variance_at and config.reference not in names else []
    trained = [_cell(config, m, seed, dataset, folder, progress) for seed in config.seeds for m in [*names, *extra]]
    cells = [cell for cell in trained if cell["method"] in names]
    variances = [row for seed in config.seeds for m in names for row in _variances(config, m, seed, dataset, folder, progress)]
    shortest = min(cell["curve"][-1]["seconds"] for cell in cells)
    rows = [_summary(method, cells, variances, shortest) for method in names]
    curves = [row for cell in cells for row in cell["curve"]]
    return {"rows": rows, "curves": curves, "variances": variances, "seconds": sum(cell["seconds"] for cell in cells)}


def make_training(config: Config, method: str, seed: int, x: Any) -> Any:
    """Model, estimator and optimizers of one training, at its start; x: the training images."""
    import torch

    from dither.experiments._vae import Training
    from dither.models.vae import BinaryVAE

    torch.manual_seed(seed)
    sizes = (x.shape[1], *config.hidden, config.latents)
    model = BinaryVAE(sizes, prior=config.prior, kl=config.kl, mean=x.mean(0) if config.centred else None)
    estimator = METHODS[method](model)
    own = list(estimator.parameters())
    return Training(
        model,
        estimator,
        torch.optim.Adam(model.parameters(), config.lr, fused=True),
        torch.optim.Adam(own, 1e-3) if own else None,
    )


def _settings(config: Config, **more: Any) -> dict[str, Any]:
    return json.loads(json.dumps({k: v for k, v in asdict(config).items() if k not in PLACES} | more))


def _plan(config: Config, seed: int) -> Any:
    from dither.experiments._vae import Plan

    return Plan(
        config.steps, config.batch_size, seed, True, config.record_every, config.minutes, tuple(config.variance_at)
    )  # fmt: skip


def _cell(config: Config, method: str, seed: int, dataset: Any, folder: Path, progress: Callable[[str], None]) -> dict:
    """One training: its curve and its test bound, kept in `result.json` of its run folder."""
    from dither.experiments import _vae

    path, settings = folder / f"{method}-{seed}", _settings(config, method=method, seed=seed)
    if kept := _vae.finished(path / "result.json", settings):
        return kept
    began = time.monotonic()
    x = dataset.train.x[: config.examples]
    training = make_training(config, method, seed, x)
    with _vae.open_run(path, settings) as run_folder:
        records = _vae.train(run_folder, training, x, _plan(config, seed))
    last = records[-1]
    cell = {
        "method": method,
        "seed": seed,
        "seconds": last["seconds"],
        "ms_per_step": 1e3 * last["seconds"] / last["step"],
        "test_bound": _test_bound(training.model, dataset.test.x, config.bound_samples),
        "curve": [
            {"method": method, "seed": seed, "step": r["step"], "seconds": round(r["seconds"], 2)}
            | {"train_elbo": round(r["train_elbo"], 4)}
            for r in records
        ],
    }
    progress(f"{method} seed {seed}: training bound {last['train_elbo']:.2f} in {time.monotonic() - began:.0f} s")
    return _vae.finish(path / "result.json", settings, cell)


def _test_bound(model: Any, grey: Any, samples: int) -> float:
    """The mean multi-sample bound of one fixed binarisation of the test images, the same for every run."""
    import torch

    from dither import noise
    from dither.experiments._vae import FIXED, binarise

    torch.manual_seed(noise.step_seed(0, FIXED))
    x = binarise(grey, noise.step_seed(1, FIXED))
    return float(torch.cat([model.bound(part, samples) for part in x.split(1000)]).double().mean())


def _variances(config: Config, method: str, seed: int, dataset: Any, folder: Path, progress: Callable[[str], None]) -> list:
    """Rows of the method's gradient variance at each snapshot of the reference ("common") and of its own run ("own")."""
    rows = []
    for trajectory, of in (("common", config.reference), ("own", method)):
        for step in sorted(set(config.variance_at)):
            row = _variance(config, method, seed, of, step, dataset, folder)
            if row is not None:
                rows.append({"method": method, "seed": seed, "trajectory": trajectory, "step": step, **row})
                progress(f"{method} seed {seed}: variance {row['variance']:.3g} at step {step} of {of}")
    return rows


def _variance(config: Config, method: str, seed: int, of: str, step: int, dataset: Any, folder: Path) -> dict | None:
    from dither import noise
    from dither.experiments import _vae

    draws = {"variance_draws": config.variance_draws, "variance_warmup": config.variance_warmup}
    settings = _settings(config, method=method, seed=seed, of=of, step=step, **draws)
    path = folder / "variance" / f"{method}-{seed}-at-{step}-of-{of}.json"
    if kept := _vae.finished(path, settings):
        return kept
    x = dataset.train.x[: config.examples]
    training = make_training(config, method, seed, x)
    # The estimator comes from its own run at that step, if there is one, and then gets used to the other network.
    _vae.recall(folder / f"{method}-{seed}", step, training.model, training.estimator)
    if not _vae.recall(folder / f"{of}-{seed}", step, training.model):
        return None
    fixed = noise.step_seed(seed, _vae.FIXED)
    _vae.warm_up(training, _vae.Batches(x, _plan(config, seed)), config.variance_warmup, fixed)
    batch = _vae.binarise(x[: config.batch_size], fixed)
    encoder = training.model.encoder.parameters()
    row = _vae.gradient_variance(training.model, training.estimator, encoder, batch, config.variance_draws, fixed + 1)
    return _vae.finish(path, settings, row)


def _summary(method: str, cells: list[dict], variances: list[dict], seconds: float) -> dict[str, Any]:
    own = [cell for cell in cells if cell["method"] == method]
    finals = [cell["curve"][-1]["train_elbo"] for cell in own]
    in_time = [[r["train_elbo"] for r in cell["curve"] if r["seconds"] <= seconds] for cell in own]
    row: dict[str, Any] = {"method": method, "seeds": len(own), "train_elbo": round(fmean(finals), 3)}
    row |= {"train_elbo_least": round(min(finals), 3), "train_elbo_most": round(max(finals), 3)}
    row["train_elbo_at_equal_time"] = round(fmean(values[-1] for values in in_time), 3) if all(in_time) else None
    row["test_bound"] = round(fmean(cell["test_bound"] for cell in own), 3)
    row["ms_per_step"] = round(fmean(cell["ms_per_step"] for cell in own), 3)
    for trajectory, prefix in (("common", ""), ("own", "own_")):
        found = [v for v in variances if v["method"] == method and v["trajectory"] == trajectory]
        for step in sorted({v["step"] for v in found}):
            row[f"{prefix}variance_{step}"] = fmean(v["variance"] for v in found if v["step"] == step)
    return row
