"""`dither plot`: pictures of a run, made from its metrics and its audit alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from dither.cli.errors import OK, CorruptError, MissingError, UsageError
from dither.cli.out import Out
from dither.cli.parse import parse


@dataclass(frozen=True)
class Command:
    """Draw the learning curves and the audit of a run, as SVG and PNG, and print the paths.

    Several runs go into one picture; runs that differ in nothing but the seed become one curve with a band.
    """

    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN [RUN ...]")]]
    """Run folders, as `dither train` makes them."""
    out: Path | None = None
    """Folder for the pictures; default RUN/figures of the first run."""
    y: str = "validation_accuracy"
    """Which column of metrics.jsonl to draw."""
    json: bool = False
    """One JSON object a line on stdout."""
    quiet: bool = False
    """No hints on stderr."""


def main(arguments: Sequence[str]) -> int:
    return run(parse(Command, arguments, "dither plot"))


def run(command: Command) -> int:
    from dither import plots
    from dither.cli.audit_files import figures
    from dither.plots import learning_curves

    if not command.runs:
        raise UsageError("which RUN? give its folder, such as dither plot runs/train/20260131T120000Z-0")
    out = Out(json=command.json, quiet=command.quiet)
    folder = command.out or command.runs[0] / "figures"
    if (kind := generative(command.runs[0])) is not None:
        paths = [path for name, figure in pictures(command.runs[0], kind) for path in plots.save(figure, folder / name)]
        out.table([{"figure": str(path)} for path in paths]) if out.json else [out.line(str(p)) for p in paths]
        return OK
    records = [record for path in command.runs for record in curve(path)]
    if not any(command.y in record for record in records):
        columns = sorted({key for record in records for key in record})
        raise UsageError(f"--y {command.y} is in no record; the columns are {', '.join(columns)}")
    paths = []
    for x, name in (("epoch", "learning"), ("seconds", "learning-by-time")):
        if any(x in record for record in records):
            axes = learning_curves.draw(records, x=x, y=command.y)
            paths += plots.save(axes.figure, folder / name)
    for path in command.runs[:1]:
        if (path / "audit.json").exists():
            paths += figures(audit_rows(path), folder)
        else:
            out.note(f"no audit of this run yet: dither audit {path}")
    out.table([{"figure": str(path)} for path in paths]) if out.json else [out.line(str(p)) for p in paths]
    return OK


def generative(path: Path) -> str | None:
    """The data set of a run of a denoising model, None for another run."""
    from dither import files

    if not (path / "config.json").is_file():
        return None
    config = files.read_json(path / "config.json")
    return config["data"] if {"method", "units", "data"} <= config.keys() else None


def pictures(path: Path, data_name: str) -> Iterator[tuple[str, Any]]:
    """Samples, completions and autocorrelation of a denoising model, and its cost by epoch."""
    from dither import data
    from dither.experiments.denoising import pictures as _pictures
    from dither.plots import learning_curves

    yield from _pictures.of_run(path, data.load(data_name))
    records = [record | {"method": path.name} for record in curve(path)]
    yield "learning", learning_curves.draw(records, x="epoch", y="train_loss", group="method").figure


def curve(path: Path) -> list[dict[str, Any]]:
    """The run's metrics, one record per epoch, with its estimator, seed and seconds of training so far."""
    from dither.training.run_folder import RunFolder

    run = RunFolder.open(path, read_only=True)
    records = run.records()
    if not records:
        raise MissingError(f"{path} has no metrics yet: continue it with dither train --resume --out {path}")
    took: dict[int, float] = {}
    for row in run.timings():  # an epoch that was interrupted has several rows
        took[row["epoch"]] = took.get(row["epoch"], 0.0) + row["seconds"]
    total, rows = 0.0, []
    for record in records:
        total += took.get(record.get("epoch", -1), 0.0)
        about = {"estimator": run.config.get("estimator", ""), "seed": run.config.get("seed", 0)}
        rows.append({**about, **record, "seconds": total})
    return rows


def audit_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of RUN/audit.json."""
    from dither import files

    try:
        stored = files.read_json(path / "audit.json")
        rows = stored["rows"]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("its rows are no objects")
        return rows
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"{path / 'audit.json'} cannot be used: {error}; make it with dither audit {path}") from None
