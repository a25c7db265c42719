"""`dither train`: train a network with hard stochastic units, and report its accuracy."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from dither.cli.errors import OK, CorruptError, MissingError, UsageError
from dither.cli.out import Out, Row
from dither.cli.parse import flag, parse, read_config, to_json
from dither.cli.setup import PLACES, Setup, TrainConfig, cost, setup

if TYPE_CHECKING:
    from dither.estimators import Estimator
    from dither.training.run_folder import RunFolder

RESULT = "result.json"


@dataclass(frozen=True)
class Command(TrainConfig):
    """Train a network with hard stochastic units and report its test accuracy.

    The run folder holds config.json, env.json, metrics.jsonl, timing.jsonl, checkpoints/ and result.json.
    Ctrl-C saves a checkpoint; continue with: dither train --resume --out RUN
    """

    out: Path | None = None
    """The run folder; default runs/train/<time>-<seed>."""
    resume: bool = False
    """Continue the run in --out; a finished one prints its result."""
    overwrite: bool = False
    """Replace the run in --out."""
    config: Path | None = None
    """Defaults for all of the above from a file, such as another run's config.json."""
    json: bool = False
    """One JSON object a line on stdout; the last holds test_accuracy."""
    quiet: bool = False
    """No progress and no hints on stderr."""


def main(arguments: Sequence[str]) -> int:
    return run(parse(Command, arguments, "dither train", default=defaults(arguments)))


def defaults(arguments: Sequence[str]) -> Command | None:
    """The command's defaults: those of --config, or with --resume those of the run in --out."""
    if {"-h", "--help"} & set(arguments):
        return None
    folder, file = flag(arguments, "out"), flag(arguments, "config")
    path = Path(file) if file else None
    if path is None and folder and "--resume" in arguments and (Path(folder) / "config.json").exists():
        path = Path(folder) / "config.json"
    return None if path is None else Command(**vars(read_config(path, TrainConfig)))


def run(command: Command) -> int:
    """Trains, evaluates once on the test part, and writes RUN/result.json."""
    out = Out(json=command.json, quiet=command.quiet)
    if command.resume and command.overwrite:
        raise UsageError("--resume continues a run and --overwrite replaces it: give one of them")
    if command.resume and command.out is None:
        raise UsageError(f"--resume needs the run to continue: --out RUN{newest_run()}")
    config = TrainConfig(**{f.name: getattr(command, f.name) for f in fields(TrainConfig)})
    folder = command.out or default_folder(config.seed)
    if command.resume and (result := finished(folder, config)):
        out.note(f"{folder} is finished")
        return report(out, folder, result)
    if command.resume:
        require_run(folder)
    objects = setup(config)
    estimator = objects.estimator()  # before the folder: what cannot be built replaces no run and leaves none
    with opened(folder, config, command) as run_folder:
        out.note(f"{'resuming' if command.resume else 'training'} in {folder}")
        try:
            result = train(objects, estimator, run_folder, out, command.resume)
        except BaseException:
            if run_folder.created and not run_folder.begun:  # nothing was trained
                run_folder.discard()
            raise
    return report(out, folder, result)


def train(objects: Setup, estimator: Estimator, run_folder: RunFolder, out: Out, resume: bool) -> Row:
    """Fits the model in its run folder and returns the result, which is written there too."""
    import torch

    from dither import Auto, files
    from dither.training.loop import fit

    config = objects.config
    optimizer = torch.optim.Adam([*objects.model.parameters(), *estimator.parameters()], lr=config.lr)
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=config.epochs)
    start = time.monotonic()

    def evaluate() -> dict[str, float]:
        return {"validation_accuracy": objects.accuracy(objects.valid, 1)}

    with out.progress("training") as progress:
        records = fit(
            objects.model,
            estimator,
            optimizer,
            cost,
            objects.train,
            epochs=config.epochs,
            batch_size=config.batch_size,
            seed=config.seed,
            run=run_folder,
            resume=resume,
            evaluate=evaluate,
            scheduler=scheduler,
            checkpoint_every=config.checkpoint_every or None,
            keep=config.keep,
            progress=progress,
            on_epoch=lambda record, seconds: out.record({**record, "seconds": seconds}),
        )
    if isinstance(estimator, Auto):
        out.note(f"auto trained with {estimator.choice} at the end; {estimator.audits} audits")
    result = {
        "estimator": config.estimator,
        "samples": config.samples,
        "data": config.data,
        "seed": config.seed,
        "epochs": config.epochs,
        "train_loss": records[-1]["train_loss"],
        "validation_accuracy": objects.accuracy(objects.valid, 10, key=0),
        "test_accuracy_1": objects.accuracy(objects.test, 1, key=0),
        "test_accuracy": objects.accuracy(objects.test, 10, key=0),
        "seconds": round(sum(row["seconds"] for row in run_folder.timings()), 2),
    }
    files.write_json(run_folder.path / RESULT, result)
    out.note(f"took {time.monotonic() - start:.0f} s")
    return result


def report(out: Out, folder: Path, result: Row) -> int:
    """The result on stdout, and what to do next on stderr."""
    if out.json:
        out.record({"run": str(folder), **result})
    else:
        out.table(
            [{"run": str(folder), **result}],
            ["run", "estimator", "test_accuracy", "test_accuracy_1", "seconds"],
        )
    out.note(f"test accuracy with ten samples per prediction; next: dither audit {folder}")
    return OK


def default_folder(seed: int) -> Path:
    """$DITHER_RUNS or runs, then train/<utc>-<seed>."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return Path(os.environ.get("DITHER_RUNS", "runs")) / "train" / f"{stamp}-{seed}"


def newest_run() -> str:
    """A hint for callers that forgot the folder."""
    runs = sorted((Path(os.environ.get("DITHER_RUNS", "runs")) / "train").glob("*/config.json"))
    return f" (the newest is {runs[-1].parent})" if runs else ""


def require_run(folder: Path) -> None:
    """MissingError, naming what is there, where there is no run to resume. One that was killed while its folder was made, which
    has a lock and no configuration yet, is one: it is begun anew."""
    if any((folder / name).exists() for name in ("config.json", "run.lock")):
        return
    inside, beside = (sorted(path.parent for path in place.glob("*/config.json")) for place in (folder, folder.parent))
    near = difflib.get_close_matches(folder.name, [path.name for path in beside], n=3)
    runs = inside or [path for path in beside if path.name in near] or beside
    where = "in it" if inside else "beside it"
    there = f"; {where}: {', '.join(map(str, runs[-3:]))}" if runs else newest_run()
    raise MissingError(f"--resume: there is no run in {folder}{there}; correct --out, or leave out --resume to begin a run")


def finished(folder: Path, config: TrainConfig) -> Row | None:
    """The result of a finished run, None for one still to be trained; UsageError for a different run."""
    from dither import files

    path = folder / "config.json"
    if not path.exists():
        return None
    was, now = to_json(read_config(path, TrainConfig)), to_json(config)
    different = [key for key in now if now[key] != was[key] and key not in PLACES]
    if different:
        changes = ", ".join(f"{key} is {was[key]} there and {now[key]} here" for key in different)
        raise UsageError(f"{folder} is another run: {changes}; give --resume --out {folder} alone")
    if not (folder / RESULT).exists():
        return None
    try:
        result = files.read_json(folder / RESULT)
        return from_result(result)
    except (ValueError, KeyError) as error:
        raise CorruptError(f"{folder / RESULT}: {error}; delete it and resume to compute it again") from None


def from_result(result: object) -> Row:
    if not isinstance(result, dict) or not isinstance(result.get("test_accuracy"), (int, float)):
        raise ValueError("no result of a training")
    return result


def opened(folder: Path, config: TrainConfig, command: Command) -> RunFolder:
    """The run folder, locked: continued with --resume where it was begun, else created."""
    from dither.training.run_folder import RunFolder

    if command.resume and (folder / "config.json").exists():
        return RunFolder.open(folder)
    # With --resume a folder without config.json is of a run that was killed while it was made.
    return RunFolder.create(folder, to_json(config), overwrite=command.overwrite or command.resume)
