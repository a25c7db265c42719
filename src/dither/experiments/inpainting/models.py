"""The networks of `gsn-inpainting`, each a run folder: denoising models, and the any-conditional model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from dither import chains
from dither.experiments.denoising import training
from dither.experiments.denoising.training import Options, Trained, mean_cost
from dither.experiments.inpainting.config import Config, Sizes, sizes
from dither.models.any_conditional import AnyConditional
from dither.tables import Progress, Row
from dither.training.loop import fit
from dither.training.run_folder import RunFolder

# model -> the methods that take it
CHAINS = {"chain": {"chain", "chain-from-data"}, "chain-multiscale": {"chain-multiscale"}}
CONDITIONALS = {"any-conditional", "any-conditional-passes"}


@dataclass(frozen=True)
class Models:
    """`chains` by the method that is named as the model; both as far as the methods need them."""

    chains: Mapping[str, chains.Model] = field(default_factory=dict)
    any_conditional: AnyConditional | None = None


def trained(config: Config, train: Tensor, folder: Path, progress: Progress) -> tuple[Models, float]:
    """(the models; seconds of their training here). train: binary."""
    own, runs, seconds = sizes(config), {}, 0.0
    recipes = {
        "chain": ("gsn-2", config.gsn_run, _options(config, own.gsn_epochs, own.gsn_width)),
        "chain-multiscale": ("dae-multiscale", config.multiscale_run, _options(config, own.multiscale_epochs, None)),
    }
    for name, (recipe, run, options) in recipes.items():
        if CHAINS[name] & set(config.methods):
            path = folder / f"{recipe}-{config.seed}"
            model = (
                training.train(recipe, train, path, f"{config.data}, thresholded", options, progress)
                if run is None
                else _stored(run, train, config.data, progress)
            )
            runs[name], seconds = model.model, seconds + model.seconds
    if not CONDITIONALS & set(config.methods):
        return Models(runs), seconds
    model, spent = _any_conditional(config, own, train, folder / f"any-conditional-{config.seed}", progress)
    progress(f"the any-conditional model was trained in {spent:.0f} s")
    return Models(runs, model), seconds + spent


def _options(config: Config, epochs: int, width: int | None) -> Options:
    return Options(config.seed, epochs, width, config.batch_size, config.precision)


def _stored(run: Path, x: Tensor, data: str, progress: Progress) -> Trained:
    """The model of an earlier run, whose training is not counted."""
    model = training.load(run)
    if model.units != x.shape[1]:
        raise ValueError(f"{run} is a model of {model.units} units: {data} has {x.shape[1]}")
    records = RunFolder.open(run, read_only=True).records()
    progress(f"{run}: trained for {records[-1]['epoch']} epochs")
    return Trained(model, records, 0.0)


def _any_conditional(config: Config, own: Sizes, x: Tensor, path: Path, progress: Progress) -> tuple[AnyConditional, float]:
    torch.manual_seed(config.seed)
    model = AnyConditional.dense(x.shape[1], own.conditional_widths)
    optimizer = torch.optim.Adam(model.parameters(), config.lr, fused=True)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, total_iters=own.conditional_epochs)
    settings = {name: getattr(config, name) for name in ("data", "seed", "lr", "batch_size", "precision")}
    settings |= {"conditional_widths": list(own.conditional_widths), "conditional_epochs": own.conditional_epochs}

    def cost(_: torch.nn.Module, x: Tensor, __: Tensor) -> Tensor:
        with config.autocast():
            return model.cost(x)

    def on_epoch(record: Row, seconds: float) -> None:
        epoch, loss = record["epoch"], record["train_loss"]
        progress(f"any-conditional, epoch {epoch}: {loss:.1f} nats, {seconds:.0f} s")

    with RunFolder.of(path, settings | {"examples": len(x)}) as run:
        fit(
            model, mean_cost, optimizer, cost, (x, torch.zeros(len(x), dtype=torch.int64, device="cpu")),
            epochs=own.conditional_epochs, batch_size=config.batch_size, seed=config.seed, run=run, resume=True,
            scheduler=scheduler, keep=1, on_epoch=on_epoch,
        )  # fmt: skip
        return model, sum(row["seconds"] for row in run.timings())
