"""`dither audit`: how biased and how noisy gradient estimators are, on a trained run or on your own model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from dither.cli.errors import OK, CommandError, CorruptError, MissingError, UsageError
from dither.cli.names import ESTIMATORS, EstimatorName
from dither.cli.out import Out
from dither.cli.parse import parse, read_config, to_json
from dither.cli.setup import TrainConfig, cost, setup

COLUMNS = ["estimator", "bias", "bias_se", "variance", "mse", "cosine", "snr", "evaluations", "milliseconds", "efficiency"]


@dataclass(frozen=True)
class Command:
    """Measure the bias and the variance of gradient estimators.

    On a run: its newest weights and one batch of its validation data; writes RUN/audit.json and RUN/figures/audit.
    On your own model: MODULE:FUNCTION returns (model, closure) or (model, closure, {name: estimator}).
    """

    target: Positional[Annotated[str, arg(metavar="RUN|MODULE:FUNCTION")]]
    """A run folder, or a function to import."""
    estimators: tuple[EstimatorName, ...] = tuple(name for name in ESTIMATORS if name != "deterministic")
    """Which estimators to compare."""
    samples: int = 4
    """Samples per example, for every estimator."""
    draws: int = 200
    """Gradient estimates per estimator."""
    warmup: int = 100
    """Calls of each estimator before its first draw, for its moving averages."""
    batch_size: int = 32
    """Examples in the batch, of a run's validation part."""
    seed: int = 0
    """Governs all noise."""
    out: Path | None = None
    """Folder for audit.json and figures/; default RUN, and none for a function."""
    json: bool = False
    """One JSON object a line on stdout: a row per estimator and parameter."""
    quiet: bool = False
    """No progress and no hints on stderr."""


def main(arguments: Sequence[str]) -> int:
    return run(parse(Command, arguments, "dither audit"))


def run(command: Command) -> int:
    """Audits, prints the overall rows (all rows under --json), and keeps all of them."""
    check(command)
    out = Out(json=command.json, quiet=command.quiet)
    subject = from_function if is_function(command.target) else from_run
    model, closure, estimators = subject(command)

    import dither

    out.note(f"auditing {len(estimators)} estimators, {command.draws} draws each")
    with out.progress("auditing") as progress, blaming(command.target):
        report = dither.audit(
            model, closure, estimators, command.draws, seed=command.seed, warmup=command.warmup, progress=progress
        )
    rows = [{**row, "draws": report.draws} for row in report.to_dicts()]
    folder = command.out or (None if is_function(command.target) else Path(command.target))
    if folder:
        for path in keep(rows, command, folder, out):
            out.note(f"wrote {path}")
    overall = [row for row in rows if row["parameter"] == "overall"]
    out.table(rows if command.json else overall, COLUMNS, title="Gradient audit")
    out.note(f"reference: {report.reference}; efficiency is 1 / (mse x milliseconds)")
    return OK


def check(command: Command) -> None:
    if command.draws < 2:
        raise UsageError(f"--draws is {command.draws}: a variance needs at least 2")
    if command.samples < 1 or command.batch_size < 1:
        raise UsageError("--samples and --batch-size must be at least 1")
    if not command.estimators:
        raise UsageError(f"--estimators names none; choose among {', '.join(ESTIMATORS)}")


def is_function(target: str) -> bool:
    return ":" in target and not Path(target).exists()


def build(model: Any, command: Command) -> dict[str, Any]:
    """The named estimators on the model; leave-one-out only where it has another sample to compare with."""
    names: list[EstimatorName] = list(command.estimators)
    if command.samples < 2:
        names = [name for name in command.estimators if name != "score-function-leave-one-out"]
    return {name: ESTIMATORS[name](model, command.samples) for name in names}


def from_run(command: Command) -> tuple[Any, Callable[[], Any], dict[str, Any]]:
    """The run's model with its newest weights, and its cost on one batch of validation data."""
    from dither.training import checkpoint
    from dither.training.state import unpack

    folder = Path(command.target)
    if not (folder / "config.json").is_file():
        hint = "" if folder.exists() else "; there is no such folder (a function is named MODULE:FUNCTION)"
        raise MissingError(f"{folder} is not a run folder: it has no config.json{hint}")
    config = read_config(folder / "config.json", TrainConfig)
    found = checkpoint.load(folder / "checkpoints")
    made = setup(config)
    try:
        made.model.load_state_dict(unpack(found.tensors, found.meta["state"]["model"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CorruptError(f"{found.path} does not fit {folder / 'config.json'}: {error}") from None
    x, y = (part[: command.batch_size] for part in made.valid)
    return made.model, lambda: cost(made.model, x, y), build(made.model, command)


def from_function(command: Command) -> tuple[Any, Callable[[], Any], dict[str, Any]]:
    """What MODULE:FUNCTION returns, with the named estimators when it brings none of its own."""
    module, _, name = command.target.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        function = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise MissingError(f"no module {module!r} here or among the installed: {error}") from None
        raise
    except AttributeError:
        raise UsageError(f"module {module!r} has no {name!r}; give MODULE:FUNCTION") from None
    finally:
        sys.path.remove(str(Path.cwd()))
    if not callable(function):
        raise UsageError(f"{command.target} is no function but {type(function).__name__}; give MODULE:FUNCTION")
    with blaming(command.target):
        made = function()
    if not isinstance(made, tuple) or len(made) not in (2, 3) or not callable(made[1]):
        raise UsageError(
            f"{command.target} returned {type(made).__name__}, expected (model, closure) or (model, closure, estimators)"
        )
    return made[0], made[1], made[2] if len(made) == 3 else build(made[0], command)


@contextmanager
def blaming(target: str) -> Iterator[None]:
    """Says in one line whose code raised: it may be anything, and a traceback would be mostly ours."""
    try:
        yield
    except Exception as error:
        text = f"{target}: {type(error).__name__}: {error} (DITHER_TRACEBACK=1 shows where)"
        raise CommandError(text) from error


def keep(rows: list[dict[str, Any]], command: Command, folder: Path, out: Out) -> list[Path]:
    """Writes folder/audit.json, and figures/audit where matplotlib is installed."""
    from dither import files, plots
    from dither.plots import audit

    folder.mkdir(parents=True, exist_ok=True)
    about = {k: v for k, v in to_json(command).items() if k not in ("out", "json", "quiet", "target")}
    files.write_json(folder / "audit.json", {"config": about, "rows": rows})
    paths = [folder / "audit.json"]
    try:
        return paths + plots.save(audit.draw(rows).figure, folder / "figures" / "audit")
    except ModuleNotFoundError as error:  # the measurement is worth having without its picture
        out.warn(f"no figure: {error}")
        return paths
