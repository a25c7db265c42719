"""The table of denoising models on a data set: train each, sample it, evaluate the samples.

    training      by the method's recipe, in a run folder that is resumed; its last checkpoints are kept
    Parzen        of every kept checkpoint, along one chain; the best of them on validation is the row's `parzen`
    many chains   of the last weights: likelihood of the test set (csl), mixing, and the samples beside test images in a
                  feature space (kid, precision, recall, ...)
    references    samples that no model made, by the same metrics: a reader sees what a number is worth

The authors' protocol, and where it differs from the papers' text: docs/experiments/gsn-mnist.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from dither import data, metrics
from dither.experiments.core import cache
from dither.experiments.core.summary import mean_and_sd
from dither.experiments.denoising import pictures, training
from dither.experiments.denoising.evaluation import SIGMA, Evaluation
from dither.experiments.denoising.recipes import Model
from dither.experiments.denoising.training import Options
from dither.plots import chains as chain_plots
from dither.plots import learning_curves
from dither.tables import NamedFigure, Progress, Result, Row

COUNTS = (100, 300, 1000, 3000, 10_000)  # samples whose CSL is taken
METRICS = (
    "csl",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "memorisation",
    "copies",
    "r_hat",
    "ess_per_1000",
    "stuck",
    "from_noise",
    "switches",
    "class_entropy",
)


@dataclass(frozen=True)
class Config:
    """Denoising auto-encoders and GSNs by their authors' recipes on a data set, evaluated and drawn."""

    data: str = "mnist"
    methods: tuple[str, ...] = ("dae", "dae-walkback", "gsn-1", "gsn-2", "gsn-3", "gsn-mixture", "dae-multiscale")
    seeds: tuple[int, ...] = (0,)
    width: int | None = None
    """of every hidden layer; None: the recipe's"""
    epochs: int = 100
    epochs_of: tuple[tuple[str, int], ...] = ()
    """other numbers of epochs, by method: dae 200 gsn-3 50"""
    batch_size: int = 100
    checkpoints: int = 4
    """how many of the last have their Parzen log-likelihood taken; `parzen` is that of the best on validation"""
    checkpoints_of: tuple[tuple[str, int], ...] = ()
    """other numbers of them, by method"""
    samples: int = 10_000
    """of the chain that Parzen takes, and of the chains that the rest takes"""
    chains: int = 100
    steps: int = 1000
    burn_in: int = 200
    precision: str = "float32"
    """of products: float32, or bfloat16 with float32 parameters"""
    with_validation: bool = True
    """train on the validation part too, as the authors did"""
    threads: int = 1
    device: str = "cpu"
    """where to train, sample and evaluate, such as cpu or cuda"""
    data_dir: Path | None = None

    def options(self, method: str, seed: int) -> Options:
        epochs, keep = dict(self.epochs_of).get(method, self.epochs), dict(self.checkpoints_of).get(method, self.checkpoints)
        return Options(seed, epochs, self.width, self.batch_size, self.precision, keep)


def run(config: Config, folder: Path, progress: Progress = print) -> Result:
    """{"rows": a row per method, "curves": CSL by samples and Parzen by checkpoint, "figures"}.

    Finished parts lie in `folder` and are not repeated.
    """
    torch.set_num_threads(config.threads)
    torch.set_float32_matmul_precision("medium")
    dataset = data.load(config.data, config.data_dir)
    evaluation = Evaluation.of(dataset, config.device)
    cells = [
        Cell(config, method, seed, folder / f"{method}-{seed}", evaluation, progress).row()
        for method in config.methods
        for seed in config.seeds
    ]
    rows = [_summary(method, [cell for cell in cells if cell["method"] == method]) for method in config.methods]
    rows += references(config, evaluation, folder)
    return {
        "rows": rows,
        "curves": [point for cell in cells for point in cell["curve"]],
        "figures": [
            (f"{kind}-{method}", figure)
            for method in config.methods
            for kind, figure in pictures.of_run(folder / f"{method}-{config.seeds[0]}", dataset, config.device)
        ],
        "seconds": sum(cell["seconds"] for cell in cells),
    }


# --- one method and one seed ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Cell:
    """A training, in the run folder `path`, and what is measured of it."""

    config: Config
    method: str
    seed: int
    path: Path
    evaluation: Evaluation
    progress: Progress

    def row(self) -> Row:
        """Train and evaluate, as far as it is not done yet."""
        config, options, evaluation = self.config, self.config.options(self.method, self.seed), self.evaluation
        x = torch.cat((evaluation.train, evaluation.valid)) if config.with_validation else evaluation.train
        trained = training.train(self.method, x, self.path, config.data, options, self.progress)
        settings: Row = {name: getattr(config, name) for name in ("samples", "chains", "steps", "burn_in")}
        settings |= {"checkpoints": training.saved_steps(self.path)[-options.keep :]}
        if (earlier := cache.read(self.path / "evaluation.json", settings)) is not None:
            return earlier
        parzen = self.parzen(settings["checkpoints"], trained.records)
        row: Row = {"method": self.method, "seed": self.seed, "epochs": options.epochs, "seconds": trained.seconds}
        row |= {"epoch_seconds": trained.seconds / options.epochs, "train_loss": trained.records[-1]["train_loss"]}
        row |= {"best": max(parzen, key=lambda one: one["parzen_valid"]), "checkpoints": parzen}
        metrics_row, csl = self.many_chains(trained.model)
        row |= metrics_row | {"curve": self.curve(csl, parzen, trained.records)}
        return cache.write(self.path / "evaluation.json", settings, row)

    def parzen(self, steps: list[int], records: list[Row]) -> list[Row]:
        """A row for each of the last checkpoints."""
        settings = {"samples": self.config.samples, "checkpoints": steps}
        if (earlier := cache.read(self.path / "parzen.json", settings)) is not None:
            return earlier["rows"]
        rows, per_epoch = [], records[-1]["step"] // records[-1]["epoch"]
        for step in steps:
            model, epoch = training.load(self.path, step, self.evaluation.train.device), step // per_epoch
            rows.append({"epoch": epoch} | self.evaluation.parzen(model, self.config.samples, seed=1000 + self.seed))
            self.progress(f"{self.method} seed {self.seed}, epoch {epoch}: Parzen {rows[-1]['parzen']:.1f}")
        return cache.write(self.path / "parzen.json", settings, {"rows": rows})["rows"]

    def many_chains(self, model: Model) -> tuple[Row, list[Row]]:
        """(metrics of the model's samples and of how its chains mix; CSL by the number of samples)."""
        config, evaluation, seed = self.config, self.evaluation, self.seed
        thin = max(1, config.steps * config.chains // config.samples)
        sizes = {"count": config.chains, "steps": config.steps, "burn_in": config.burn_in}
        visited = evaluation.run_chains(model, **sizes, thin=thin, seed=seed)
        means = visited.means.flatten(0, 1)
        shuffled = means[
            torch.randperm(len(means), generator=torch.Generator().manual_seed(seed), dtype=torch.int64, device="cpu").to(
                means.device
            )
        ]
        # Faces are grey: thresholded, they are no data.
        csl = evaluation.csl(shuffled, COUNTS) if evaluation.classify else []
        row: Row = {"from_noise": evaluation.from_noise(model, count=config.chains, steps=config.steps, seed=seed)}
        row |= {"csl": csl[-1]["csl"] if csl else None, **evaluation.mixing(visited), **evaluation.compare(means)}
        return row, csl

    def curve(self, csl: list[Row], parzen: list[Row], records: list[Row]) -> list[Row]:
        points = [{"samples": row["samples"], "csl": row["csl"]} for row in csl]
        points += [{"epoch": row["epoch"], "parzen": row["parzen"]} for row in parzen]
        points += [{"epoch": record["epoch"], "nats": record["train_loss"]} for record in records]
        return [{"method": self.method, "seed": self.seed} | point for point in points]


# --- the table --------------------------------------------------------------------------------------------------------
def _summary(method: str, cells: list[Row]) -> Row:
    """Means over the seeds, with standard deviations.

    parzen_last is over the last checkpoints of all seeds, `parzen_last_n` in all; the rest is over seeds.
    """
    last = [row["parzen"] for cell in cells for row in cell["checkpoints"]]
    row: Row = {"model": method, "seeds": len(cells), "epochs": cells[0]["epochs"]}
    row |= mean_and_sd("parzen", [cell["best"]["parzen"] for cell in cells])
    row |= {"parzen_error": fmean(cell["best"]["standard_error"] for cell in cells)}
    row |= mean_and_sd("parzen_last", last) | {"parzen_last_n": len(last)}
    for key in METRICS:
        row |= mean_and_sd(key, [cell.get(key) for cell in cells])
    return row | {key: fmean(cell[key] for cell in cells) for key in ("kid_error", "epoch_seconds")}


def references(config: Config, evaluation: Evaluation, folder: Path) -> list[Row]:
    """Samples that no model made, by the same metrics."""
    settings = {"samples": config.samples, "data": config.data}
    if (earlier := cache.read(folder / "references.json", settings)) is not None:
        return earlier["rows"]
    train, test = evaluation.train, evaluation.test
    count = min(config.samples, len(train))
    few, centroids = min(50, train.shape[1]), min(1000, count // 2)
    rows: list[Row] = [
        {"model": row["samples"], "parzen": row["log_likelihood"], "parzen_error": row["standard_error"]}
        for row in metrics.reference_rows(train, test, SIGMA, count=count, components=few, centroids=centroids)
    ]
    rows[0] |= evaluation.compare(train[:count])
    return cache.write(folder / "references.json", settings, {"rows": rows})["rows"]


def figures(curves: list[Row]) -> Iterator[NamedFigure]:
    """CSL against the number of samples, Parzen against epochs, training cost against epochs."""
    if csl := [row for row in curves if "csl" in row]:
        yield "csl", chain_plots.likelihood(csl).figure
    for y, name in (("parzen", "parzen"), ("nats", "learning")):
        rows = [row for row in curves if y in row]
        yield name, learning_curves.draw(rows, x="epoch", y=y, group="method").figure
