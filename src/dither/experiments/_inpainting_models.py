"""The two models of `gsn_inpainting`, each a run folder: a GSN, and one network for any question."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dither.experiments import _gsn
from dither.experiments._vae import open_run
from dither.models.any_conditional import AnyConditional
from dither.training.loop import fit
from dither.training.run_folder import RunFolder


def trained(config: Any, train: Tensor, folder: Path, progress: Callable[[str], None]) -> tuple[dict[str, Any], float]:
    """({"chain": ..., "question": ...}, as far as the methods need them; seconds of their training here). train: binary."""
    made, seconds = {}, 0.0
    if {"chain", "chain-from-data"} & set(config.methods):
        sizes = {"epochs": config.gsn_epochs, "width": config.gsn_width}
        made["chain"], spent = _chain("gsn-2", config.gsn_run, sizes, config, train, folder, progress)
        seconds += spent
    if "chain-levels" in config.methods:
        sizes = {"epochs": config.levels_epochs}
        made["chain-levels"], spent = _chain("dae-levels", config.levels_run, sizes, config, train, folder, progress)
        seconds += spent
    if {"question", "question-passes"} & set(config.methods):
        made["question"], spent = _question(config, train, folder / f"question-{config.seed}", progress)
        seconds += spent
        progress(f"the network for any question was trained in {spent:.0f} s")
    return made, seconds


def _chain(
    recipe: str,
    run: Path | None,
    sizes: dict[str, Any],
    config: Any,
    x: Tensor,
    folder: Path,
    progress: Callable[[str], None],
) -> tuple[Any, float]:
    if run is None:
        options = {
            "data": f"{config.data}, thresholded",
            "seed": config.seed,
            "batch_size": config.batch_size,
            "precision": config.precision,
        }
        path = folder / f"{recipe}-{config.seed}"
        model, _, seconds = _gsn.train(recipe, x, path, **options, **sizes, progress=progress)
        return model, seconds
    model = _gsn.load(run)
    if model.units != x.shape[1]:
        raise ValueError(f"{run} is a model of {model.units} units: {config.data} has {x.shape[1]}")
    records = RunFolder.open(run, read_only=True).records()
    progress(f"{run}: trained for {records[-1]['epoch']} epochs")
    return model, 0.0


def _question(config: Any, x: Tensor, path: Path, progress: Callable[[str], None]) -> tuple[Any, float]:
    torch.manual_seed(config.seed)
    model = AnyConditional.dense(x.shape[1], config.question_widths)
    optimizer = torch.optim.Adam(model.parameters(), config.lr, fused=True)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, total_iters=config.question_epochs)
    names = ("data", "seed", "question_widths", "question_epochs", "lr", "batch_size", "precision")
    settings = {name: getattr(config, name) for name in names} | {"examples": len(x)}

    def cost(model: Any, x: Tensor, _: Tensor) -> Tensor:
        with autocast(config):
            return model.cost(x)

    with open_run(path, settings | {"question_widths": list(config.question_widths)}) as run:
        fit(
            model,
            lambda closure: closure().mean(),
            optimizer,
            cost,
            (x, torch.zeros(len(x), dtype=torch.int64)),
            epochs=config.question_epochs,
            batch_size=config.batch_size,
            seed=config.seed,
            run=run,
            resume=True,
            scheduler=scheduler,
            keep=1,
            on_epoch=lambda record, seconds: progress(
                f"question, epoch {record['epoch']}: {record['train_loss']:.1f} nats, {seconds:.0f} s"
            ),
        )
        return model, sum(row["seconds"] for row in run.timings())


def autocast(config: Any) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16")
