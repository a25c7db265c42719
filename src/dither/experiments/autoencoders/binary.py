"""Autoencoder with 200 binary latents by every estimator: training bound at equal steps and equal time, gradient variance.

The benchmark of DisARM, ARMS, Double CV and RODEO: 784-200-200-200 / 200-200-200-784, LeakyReLU(.3), Adam 1e-3, batches of
100, pixels sampled anew at every step, the first 50,000 training images, fixed fair prior, uncentred input (RODEO's code).
They train for 10^6 steps; the length here is a setting. One Adam at one rate trains model and prior.

Variances along each method's own training are not comparable, because better methods reach other networks. So besides,
every method's variance is measured on the snapshots of one run, that of `reference`, by the same noise on the same batch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor

from dither import data, methods, noise
from dither.experiments.autoencoders.training import FIXED, Autoencoder, Images, Training, binarise, load_snapshot, train
from dither.experiments.autoencoders.variance import gradient_variance, warm_up
from dither.experiments.core import cache
from dither.experiments.core.summary import mean_and_sd
from dither.models.vae import BinaryVAE
from dither.tables import Progress, Result, Row
from dither.training.run_folder import RunFolder

METHODS = (
    "straight-through",
    "reinmax",
    "gumbel-softmax",
    "score-function:optimal",
    "score-function:leave-one-out,samples=2",
    "score-function:leave-one-out,samples=3",
    "arm",
    "disarm",
    "arms:samples=3",
    "muprop",
    "rebar",
    "relax",
    "double-cv:samples=2",
    "rodeo:samples=2",
    "blend",
    "blend:control-variate",
)
PLACES = ("methods", "seeds", "threads", "data_dir", "reference", "variance_draws", "variance_warmup")  # no run depends on them


@dataclass(frozen=True)
class Config:
    """Autoencoder with 200 binary latents by every estimator, at equal steps and equal time."""

    data: str = "mnist"
    """mnist, fashion_mnist, omniglot or digits"""
    methods: tuple[str, ...] = METHODS
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 100_000
    minutes: float | None = None
    """of its own, after which a training ends even if its steps are not over"""
    examples: int = 50_000
    """as many of the training images, the first, or all that there are"""
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
    """steps at which networks are saved and the gradient's variance is measured; --variance-at without numbers: none"""
    variance_draws: int = 100
    variance_warmup: int = 200
    """calls of an estimator before it is measured, for its moving averages and its own parameters"""
    reference: str = "score-function:leave-one-out,samples=2"
    """the method whose networks all others are measured on"""
    bound_samples: int = 100
    """of the multi-sample bound on the test images, at the end"""
    threads: int = 1
    data_dir: Path | None = None


class BinaryResult(Result):
    """variances   rows of the gradient's variance at each snapshot: of the reference ("common"), of the method ("own")"""

    variances: list[Row]


def run(config: Config, folder: Path, progress: Progress = print) -> BinaryResult:
    """Train every method with every seed: a row per method; curves: a row per method, seed and record.

    Each training is a run folder below `folder`, and so is each measurement a file: finished ones are not repeated.
    Rows: train_elbo (over seeds, of the last record_every steps), train_elbo_at_equal_time (at the time of the shortest
    training), test_bound, ms_per_step, and the variance per coordinate of the encoder's gradient as variance_STEP on the
    reference's networks and own_variance_STEP on the method's own.
    """
    for method in (*config.methods, config.reference):
        methods.parse(method)
    torch.set_num_threads(config.threads)
    comparison = Comparison(config, folder, progress)
    names = list(config.methods)
    extra = [config.reference] if config.variance_at and config.reference not in names else []
    trained = [comparison.trained(method, seed) for seed in config.seeds for method in [*names, *extra]]
    cells = [cell for cell in trained if cell["method"] in names]
    variances = [row for seed in config.seeds for method in names for row in comparison.variances(method, seed)]
    shortest = min(cell["curve"][-1]["seconds"] for cell in cells)
    return {
        "rows": [_summary(method, cells, variances, shortest) for method in names],
        "curves": [row for cell in cells for row in cell["curve"]],
        "variances": variances,
        "seconds": sum(cell["seconds"] for cell in cells),
    }


def make_training(config: Config, method: str, seed: int, x: Tensor) -> Training:
    """Model, estimator and optimizers of one training, at its start; x: the training images."""
    torch.manual_seed(seed)
    sizes = (x.shape[1], *config.hidden, config.latents)
    model = BinaryVAE(sizes, prior=config.prior, kl=config.kl, mean=x.mean(0) if config.centred else None)
    estimator = methods.build(method, model)
    optimizer = torch.optim.Adam(model.parameters(), config.lr, fused=True)
    own = list(estimator.parameters())
    return Training(model, estimator, optimizer, torch.optim.Adam(own, 1e-3) if own else None)


class Comparison:
    """The data of all trainings, and the folder that has them."""

    def __init__(self, config: Config, folder: Path, progress: Progress) -> None:
        self.config, self.folder, self.progress = config, folder, progress
        dataset = data.load(config.data, config.data_dir)
        self.x, self.test = dataset.train.x[: config.examples], dataset.test.x

    def settings(self, **more: object) -> dict[str, Any]:
        return {key: value for key, value in asdict(self.config).items() if key not in PLACES} | more

    def path(self, method: str, seed: int) -> Path:
        return self.folder / f"{methods.slug(method)}-{seed}"

    def images(self, seed: int) -> Images:
        return Images(self.x, self.config.batch_size, seed, binarised=True)

    def trained(self, method: str, seed: int) -> Row:
        """One training: its curve and its test bound, cached in `result.json` of its run folder."""
        path, settings = self.path(method, seed), self.settings(method=method, seed=seed)
        if cached := cache.read(path / "result.json", settings):
            return cached
        training = make_training(self.config, method, seed, self.x)
        with RunFolder.of(path, settings) as run_folder:
            records = train(
                run_folder,
                training,
                self.images(seed),
                steps=self.config.steps,
                record_every=self.config.record_every,
                minutes=self.config.minutes,
                snapshots=self.config.variance_at,
            )
        last = records[-1]
        cell = {
            "method": method,
            "seed": seed,
            "seconds": last["seconds"],
            "ms_per_step": 1e3 * last["seconds"] / last["step"],
            "test_bound": multi_sample_bound(training.model, self.test, self.config.bound_samples),
            "curve": [_point(method, seed, record) for record in records],
        }
        self.progress(f"{method} seed {seed}: training bound {last['train_elbo']:.2f} in {last['seconds']:.0f} s")
        return cache.write(path / "result.json", settings, cell)

    def variances(self, method: str, seed: int) -> list[Row]:
        """Rows of the variance of the method's gradient at each snapshot of the reference and of its own run."""
        rows = []
        for trajectory, of in (("common", self.config.reference), ("own", method)):
            for step in sorted(set(self.config.variance_at)):
                row = self._variance(method, seed, of, step)
                if row is not None:
                    rows.append({"method": method, "seed": seed, "trajectory": trajectory, "step": step, **row})
                    self.progress(f"{method} seed {seed}: variance {row['variance']:.3g} at step {step} of {of}")
        return rows

    def _variance(self, method: str, seed: int, of: str, step: int) -> Row | None:
        config = self.config
        draws = {"variance_draws": config.variance_draws, "variance_warmup": config.variance_warmup}
        settings = self.settings(method=method, seed=seed, of=of, step=step, **draws)
        path = self.folder / "variance" / f"{methods.slug(method)}-{seed}-at-{step}-of-{methods.slug(of)}.json"
        if cached := cache.read(path, settings):
            return cached
        training = make_training(config, method, seed, self.x)
        # The estimator comes from its own run at that step, if there is one, and then gets used to the other network.
        load_snapshot(self.path(method, seed), step, training.model, training.estimator)
        if not load_snapshot(self.path(of, seed), step, training.model):
            return None
        fixed = noise.step_seed(seed, FIXED)
        warm_up(training, self.images(seed), config.variance_warmup, fixed)
        batch, encoder = binarise(self.x[: config.batch_size], fixed), training.model.encoder.parameters()
        row = gradient_variance(training.model, training.estimator, encoder, batch, config.variance_draws, fixed + 1)
        return cache.write(path, settings, row)


def multi_sample_bound(model: Autoencoder, grey: Tensor, samples: int) -> float:
    """The mean multi-sample bound of one fixed binarisation of the test images, the same for every run."""
    torch.manual_seed(noise.step_seed(0, FIXED))
    x = binarise(grey, noise.step_seed(1, FIXED))
    return float(torch.cat([model.bound(part, samples) for part in x.split(1000)]).double().mean())


def _point(method: str, seed: int, record: Row) -> Row:
    row = {"method": method, "seed": seed, "step": record["step"], "seconds": round(record["seconds"], 2)}
    return row | {"train_elbo": round(record["train_elbo"], 4)}


def _summary(method: str, cells: list[Row], variances: list[Row], seconds: float) -> Row:
    own = [cell for cell in cells if cell["method"] == method]
    in_time = [[r["train_elbo"] for r in cell["curve"] if r["seconds"] <= seconds] for cell in own]
    row: Row = {"method": method, "seeds": len(own)}
    row |= mean_and_sd("train_elbo", [cell["curve"][-1]["train_elbo"] for cell in own])
    row |= mean_and_sd("train_elbo_at_equal_time", [values[-1] if values else None for values in in_time])
    row |= mean_and_sd("test_bound", [cell["test_bound"] for cell in own])
    row["ms_per_step"] = round(fmean(cell["ms_per_step"] for cell in own), 3)
    for trajectory, prefix in (("common", ""), ("own", "own_")):
        measured = [v for v in variances if v["method"] == method and v["trajectory"] == trajectory]
        for step in sorted({v["step"] for v in measured}):
            row[f"{prefix}variance_{step}"] = fmean(v["variance"] for v in measured if v["step"] == step)
    return row
