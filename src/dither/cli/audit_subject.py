"""What `dither audit` audits: a run's checkpoints, or what a user's function returns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dither.cli.audit_command import Command
from dither.cli.errors import CommandError, CorruptError, MissingError, UsageError
from dither.cli.out import Out, Row
from dither.cli.parse import read_config, to_json
from dither.cli.setup import PLACES, TrainConfig, cost, setup

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dither.estimators import Estimator
    from dither.training.checkpoint import Checkpoint


@dataclass
class Subject:
    """What is audited.

    weights      (step, what puts them into the model), oldest first
    estimators   a function's own
    about        the configuration
    """

    model: nn.Module
    closure: Callable[[], Tensor]
    weights: list[tuple[int | None, Callable[[], None]]]
    estimators: dict[str, Estimator] | None = None
    about: Row = field(default_factory=dict)


def is_function(target: str) -> bool:
    return ":" in target and not Path(target).exists()


def from_run(command: Command, out: Out) -> Subject:
    """The run's model with the weights of the named checkpoints, and its cost on one batch of validation data."""
    folder = Path(command.target)
    if not (folder / "config.json").is_file():
        hint = "" if folder.exists() else "; there is no such folder (a function is named MODULE:FUNCTION)"
        raise MissingError(f"{folder} is not a run folder: it has no config.json{hint}")
    config = read_config(folder / "config.json", TrainConfig)
    points = checkpoints(folder / "checkpoints", command.checkpoints, out)
    objects = setup(config)
    weights: list[tuple[int | None, Callable[[], None]]] = []
    for point in points:
        restore = partial(load_weights, objects.model, point, folder / "config.json")
        restore()  # each is tried before hours are spent on another
        weights.append((point.step, restore))
    x, y = (part[: command.batch_size] for part in objects.valid)
    about = {key: value for key, value in to_json(config).items() if key not in PLACES}
    return Subject(objects.model, lambda: cost(objects.model, x, y), weights, about=about)


def checkpoints(folder: Path, which: tuple[str, ...], out: Out) -> list[Checkpoint]:
    """The named checkpoints, verified, oldest first; of "all" a corrupt one is left out with a warning."""
    from dither.training import checkpoint

    if which == ("newest",):
        return [checkpoint.load(folder)]
    if which != ("all",):
        wrong = [word for word in which if not word.isdecimal()]
        if wrong:
            raise UsageError(f"--checkpoints {wrong[0]}: give newest, all, or steps; there is {listed(folder)}")
        return [checkpoint.load(folder, step=step) for step in sorted(set(map(int, which)))]
    points, failures = [], []
    for step in checkpoint.steps(folder):
        try:
            points.append(checkpoint.load(folder, step=step))
        except checkpoint.CorruptCheckpoint as error:
            failures.append(str(error))
    if not points:
        return [checkpoint.load(folder)]  # says why there is none
    for failure in failures:
        out.warn(f"{failure} (left out)")
    return points


def listed(folder: Path) -> str:
    from dither.training import checkpoint

    return ", ".join(map(str, checkpoint.steps(folder))) or "none"


def load_weights(model: nn.Module, point: Checkpoint, config: Path) -> None:
    from dither.training.state import unpack

    try:
        model.load_state_dict(unpack(point.tensors, point.meta["state"]["model"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CorruptError(f"{point.path} does not fit {config}: {error}") from None


def from_function(command: Command, out: Out) -> Subject:
    """What MODULE:FUNCTION returns."""
    function = imported(command.target)
    with blaming(command.target):
        result = function()
    if not isinstance(result, tuple) or len(result) not in (2, 3) or not callable(result[1]):
        raise UsageError(
            f"{command.target} returned {type(result).__name__}, expected (model, closure) or (model, closure, estimators)"
        )
    model, closure, *estimators = result
    return Subject(model, closure, [(None, lambda: None)], *estimators)


def imported(target: str) -> Callable[[], Any]:
    """MODULE:FUNCTION; UsageError or MissingError, naming what is not there."""
    module, _, name = target.partition(":")
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
        raise UsageError(f"{target} is no function but {type(function).__name__}; give MODULE:FUNCTION")
    return function


@contextmanager
def blaming(target: str) -> Iterator[None]:
    """Says in one line whose code raised: it may be anything, and a traceback would be mostly ours."""
    try:
        yield
    except Exception as error:
        text = f"{target}: {type(error).__name__}: {error} (DITHER_TRACEBACK=1 shows where)"
        raise CommandError(text) from error
