"""The table of denoising models on a data set: train each, sample, judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from dither import data, metrics
from dither.experiments import _gsn, _pictures
from dither.experiments._judge import SIGMA, Judge
from dither.experiments._vae import finish, finished

COUNTS = (100, 300, 1000, 3000, 10_000)
FEATURES = 32


def run(config: Any, folder: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """{"rows": a row per method, "curves": CSL by samples and Parzen by checkpoint, "figures"}; finished parts are kept."""
    torch.set_num_threads(config.threads)
    torch.set_float32_matmul_precision("medium")
    dataset = data.load(config.data, config.data_dir)
    judge = make_judge(dataset, config.device)
    cells = [
        _cell(config, method, seed, dataset, judge, folder, progress) for method in config.methods for seed in config.seeds
    ]
    rows = [_summary(method, [cell for cell in cells if cell["method"] == method]) for method in config.methods]
    rows += references(config, judge, folder)
    curves = [point for cell in cells for point in cell["curve"]]
    first = {method: folder / f"{method}-{config.seeds[0]}" for method in config.methods}
    pictures = [
        (f"{kind}-{method}", figure)
        for method, path in first.items()
        for kind, figure in _pictures.of_run(path, dataset, config.device)
    ]
    return {"rows": rows, "curves": curves, "figures": pictures, "seconds": sum(cell["seconds"] for cell in cells)}


def make_judge(dataset: Any, device: str = "cpu") -> Judge:
    """With the stored feature net of the data set, or where it has none, principal components as features."""
    train, valid, test = (part.x.to(device) for part in (dataset.train, dataset.valid, dataset.test))
    if dataset.name in ("mnist", "digits"):
        net = metrics.feature_net(dataset.name).to(device)
        return Judge(train, valid, test, net.features, net.classify, dataset.classes)
    mean = train.mean(0)
    basis = torch.linalg.svd(train - mean, full_matrices=False)[2][:FEATURES].T
    return Judge(train, valid, test, lambda x: (x - mean) @ basis, None, 1)


# --- one training -------------------------------------------------------------------------------------------------------
def _cell(
    config: Any, method: str, seed: int, dataset: Any, judge: Judge, folder: Path, progress: Callable[[str], None]
) -> dict[str, Any]:
    x = torch.cat((judge.train, judge.valid)) if config.with_validation else judge.train
    path = folder / f"{method}-{seed}"
    epochs = dict(config.epochs_of).get(method, config.epochs)
    checkpoints = dict(config.checkpoints_of).get(method, config.checkpoints)
    model, records, seconds = _gsn.train(
        method,
        x,
        path,
        data=dataset.name,
        seed=seed,
        epochs=epochs,
        width=config.width,
        batch_size=config.batch_size,
        precision=config.precision,
        keep=checkpoints,
        progress=progress,
    )
    steps = _gsn.saved_steps(path)[-checkpoints:]
    settings = {k: v for k, v in asdict(config).items() if k in ("samples", "chains", "steps", "burn_in")}
    settings |= {"checkpoints": steps}
    kept = finished(path / "judged.json", settings)
    if kept is not None:
        return kept
    per_epoch = records[-1]["step"] // records[-1]["epoch"]
    parzen = _parzen(path, steps, per_epoch, config.samples, seed, judge, lambda text: progress(f"{method} {text}"))
    thin = max(1, config.steps * config.chains // config.samples)
    found = judge.chains(model, count=config.chains, steps=config.steps, burn_in=config.burn_in, thin=thin, seed=seed)
    means = found.means.flatten(0, 1)
    mixed = means[torch.randperm(len(means), generator=torch.Generator().manual_seed(seed)).to(means.device)]
    csl = judge.csl(mixed, COUNTS) if judge.classify else []  # faces are grey: thresholded, they are no data
    chosen = max(parzen, key=lambda row: row["parzen_valid"])
    cell = {"method": method, "seed": seed, "epochs": epochs, "seconds": seconds}
    cell |= {
        "epoch_seconds": seconds / epochs,
        "train_loss": records[-1]["train_loss"],
        "chosen": chosen,
        "checkpoints": parzen,
    }
    cell["from_noise"] = judge.from_noise(model, count=config.chains, steps=config.steps, seed=seed)
    cell |= {"csl": csl[-1]["csl"] if csl else None, **judge.mixing(found), **judge.compare(means)}
    cell["curve"] = [{"method": method, "seed": seed, "samples": row["samples"], "csl": row["csl"]} for row in csl]
    cell["curve"] += [{"method": method, "seed": seed, "epoch": row["epoch"], "parzen": row["parzen"]} for row in parzen]
    cell["curve"] += [{"method": method, "seed": seed, "epoch": r["epoch"], "nats": r["train_loss"]} for r in records]
    return finish(path / "judged.json", settings, cell)


def _parzen(
    path: Path, steps: list[int], per_epoch: int, samples: int, seed: int, judge: Judge, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    settings = {"samples": samples, "checkpoints": steps}
    kept = finished(path / "parzen.json", settings)
    if kept is not None:
        return kept["rows"]
    rows = []
    for step in steps:
        rows.append(
            {"epoch": step // per_epoch} | judge.parzen(_gsn.load(path, step, judge.train.device), samples, seed=1000 + seed)
        )
        progress(f"seed {seed}, epoch {step // per_epoch}: Parzen {rows[-1]['parzen']:.1f}")
    return finish(path / "parzen.json", settings, {"rows": rows})["rows"]


MEANS = (
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
)


def _summary(method: str, cells: list[dict[str, Any]]) -> dict[str, Any]:
    chosen = [cell["chosen"] for cell in cells]
    last = [row["parzen"] for cell in cells for row in cell["checkpoints"]]
    row: dict[str, Any] = {"model": method, "seeds": len(cells), "epochs": cells[0]["epochs"]}
    row |= {"parzen": fmean(c["parzen"] for c in chosen), "parzen_error": fmean(c["standard_error"] for c in chosen)}
    row |= {"parzen_last": fmean(last), "parzen_spread": stdev(last) if len(last) > 1 else None}
    row |= {"parzen_least": min(last), "parzen_most": max(last), "checkpoints": len(last)}
    for key in (*MEANS, "switches", "class_entropy", "kid_error", "epoch_seconds"):
        values = [cell.get(key) for cell in cells]
        known = [value for value in values if value is not None]
        row[key] = fmean(known) if len(known) == len(values) else None
    csl = [cell["csl"] for cell in cells if cell["csl"] is not None]
    return row | {"csl_least": min(csl, default=None), "csl_most": max(csl, default=None)}


# --- what the numbers mean ----------------------------------------------------------------------------------------------
def references(config: Any, judge: Judge, folder: Path) -> list[dict[str, Any]]:
    """Samples that no model made, by the same judge: a reader sees what a number is worth."""
    settings = {"samples": config.samples, "data": config.data}
    kept = finished(folder / "references.json", settings)
    if kept is not None:
        return kept["rows"]
    count = min(config.samples, len(judge.train))
    few, centroids = min(50, judge.train.shape[1]), min(1000, count // 2)
    rows = []
    for row in metrics.reference_rows(judge.train, judge.test, SIGMA, count=count, components=few, centroids=centroids):
        rows.append({"model": row["samples"], "parzen": row["log_likelihood"], "parzen_error": row["standard_error"]})
    rows[0] |= judge.compare(judge.train[:count])
    return finish(folder / "references.json", settings, {"rows": rows})["rows"]


def figures(curves: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """CSL against the number of samples, Parzen against epochs, training cost against epochs."""
    from dither.plots import chains as plots
    from dither.plots import learning_curves

    if csl := [row for row in curves if "csl" in row]:
        yield "csl", plots.likelihood(csl).figure
    parzen = [row for row in curves if "parzen" in row]
    yield "parzen", learning_curves.draw(parzen, x="epoch", y="parzen", group="method").figure
    costs = [row for row in curves if "nats" in row]
    yield "learning", learning_curves.draw(costs, x="epoch", y="nats", group="method").figure
