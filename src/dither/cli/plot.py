"""`dither plot`: pictures of a run, made from its metrics and its audit alone, or of a published result, from its JSON."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from dither.cli import pictures
from dither.cli.bench import BENCHMARKS
from dither.cli.catalogue import Entries
from dither.cli.errors import OK, CorruptError, MissingError, UsageError
from dither.cli.experiment import EXPERIMENTS
from dither.cli.out import Out
from dither.cli.parse import parse

TABLES: dict[str, Entries] = {"experiment": EXPERIMENTS, "bench": BENCHMARKS}


@dataclass(frozen=True)
class Command:
    """Draw the learning curves and the audit of a run, as SVG and PNG, and print the paths.

    Several runs go into one picture; runs that differ in nothing but the seed become one curve with a band. With --results
    the pictures are those of a published result, as PNG: dither plot --results first-demo --out results/figures.
    """

    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="[RUN ...]")]] = ()
    """Run folders, as `dither train` makes them."""
    results: str | None = None
    """Name of a published result instead: what is drawn lies in NAME-curves.json."""
    folder: Path = Path("results")
    """Folder of the published results."""
    figures: tuple[str, ...] = ()
    """Which pictures of the published result; default all that its curves give."""
    out: Path | None = None
    """Folder for the pictures; default RUN/figures of the first run, runs/NAME/figures for a published result."""
    y: str = "validation_accuracy"
    """Which column of metrics.jsonl to draw."""
    json: bool = False
    """One JSON object a line on stdout."""
    quiet: bool = False
    """No hints on stderr."""


def main(arguments: Sequence[str]) -> int:
    return run(parse(Command, arguments, "dither plot"))


def run(command: Command) -> int:
    if bool(command.runs) == (command.results is not None):
        raise UsageError("which RUN? give its folder, such as dither plot runs/train/20260131T120000Z-0, or --results NAME")
    out = Out(json=command.json, quiet=command.quiet)
    paths = list(of_runs(command, out) if command.results is None else of_results(command.results, command))
    out.table([{"figure": str(path)} for path in paths]) if out.json else [out.line(str(p)) for p in paths]
    return OK


# --- published results --------------------------------------------------------------------------------------------------
def of_results(name: str, command: Command) -> Iterator[Path]:
    """Draws what the curves of NAME-curves.json give, as PNG."""
    drawn = dict(pictures_of_result(name, command.folder))
    absent = [title for title in command.figures if title not in drawn]
    if absent or not drawn:
        raise UsageError(
            f"{name}: its JSON gives {', '.join(drawn) or 'no picture'}. Pictures of trained models, such as samples, come "
            f"from the run: {publishing(name, command.folder)} --figures {absent[0] if absent else 'PICTURE'}"
        )
    folder = command.out or Path(os.environ.get("DITHER_RUNS", "runs")) / name / "figures"
    return pictures.publish(pictures.selected(drawn.items(), command.figures or list(drawn)), folder, name)


def pictures_of_result(name: str, folder: Path) -> Iterable[pictures.Picture]:
    from dither import results

    verb, entry = entry_of(name, folder)
    if not (folder / f"{name}-curves.json").is_file():
        return ()
    module = import_module(TABLES[verb][entry][0])
    return pictures.of_curves(module, results.load(f"{name}-curves", folder)["rows"])


def entry_of(name: str, folder: Path) -> tuple[str, str]:
    """(verb, name) of the experiment or benchmark that made a published result."""
    from dither import results

    command = results.load(name, folder)["command"]
    verb, entry = [*command.split(), "", ""][1:3]
    if entry not in TABLES.get(verb, {}):
        raise CorruptError(f"{folder / name}.json was made by {command!r}: dither {verb} list has no {entry!r}; correct it")
    return verb, entry


def publishing(name: str, folder: Path) -> str:
    """The command that makes a published result again."""
    from dither import results

    label = name.removeprefix(entry_of(name, folder)[1]).lstrip("-")
    return results.load(name, folder)["command"] + (f" --label {label}" if label else "") + f" --publish {folder}"


# --- runs ---------------------------------------------------------------------------------------------------------------
def of_runs(command: Command, out: Out) -> Iterator[Path]:
    from dither import plots
    from dither.cli.audit_files import figures
    from dither.plots import learning_curves

    folder = command.out or command.runs[0] / "figures"
    if (kind := generative(command.runs[0])) is not None:
        for name, figure in pictures_of_run(command.runs[0], kind):
            yield from plots.save(figure, folder / name)
        return
    records = [record for path in command.runs for record in curve(path)]
    if not any(command.y in record for record in records):
        columns = sorted({key for record in records for key in record})
        raise UsageError(f"--y {command.y} is in no record; the columns are {', '.join(columns)}")
    for x, name in (("epoch", "learning"), ("seconds", "learning-by-time")):
        if any(x in record for record in records):
            axes = learning_curves.draw(records, x=x, y=command.y)
            yield from plots.save(axes.figure, folder / name)
    if (command.runs[0] / "audit.json").exists():
        yield from figures(audit_rows(command.runs[0]), folder)
    else:
        out.note(f"no audit of this run yet: dither audit {command.runs[0]}")


def generative(path: Path) -> str | None:
    """The data set of a run of a denoising model, None for another run."""
    from dither import files

    if not (path / "config.json").is_file():
        return None
    config = files.read_json(path / "config.json")
    return config["data"] if {"method", "units", "data"} <= config.keys() else None


def pictures_of_run(path: Path, data_name: str) -> Iterator[tuple[str, Any]]:
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
