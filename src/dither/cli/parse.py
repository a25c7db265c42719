"""From arguments to a frozen dataclass: tyro, told about colour and about `--config run.json`."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from dither.cli.errors import CorruptError, MissingError, UsageError
from dither.cli.out import wants_color

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")


def parse(command: type[T], arguments: Sequence[str], prog: str, default: T | None = None) -> T:
    """The dataclass `command` from `arguments`; a wrong flag exits with 2 and a suggestion on stderr."""
    import tyro

    # tyro decides about colour by stdout alone and knows no NO_COLOR; its errors go to stderr.
    stream = sys.stdout if {"-h", "--help"} & set(arguments) else sys.stderr
    tyro._experimental_options["ansi_codes"] = wants_color(stream)
    markers = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    stored = tyro.MISSING_NONPROP if default is None else default
    return tyro.cli(command, args=list(arguments), prog=prog, config=markers, default=stored)


def flag(arguments: Sequence[str], name: str) -> str | None:
    """The value of `--name value` or `--name=value`, before parsing: the file that it names holds the defaults."""
    for i, argument in enumerate(arguments):
        if argument == f"--{name}":
            if i + 1 == len(arguments):
                return None  # tyro will say that a value is missing
            return arguments[i + 1]
        if argument.startswith(f"--{name}="):
            return argument.partition("=")[2]
    return None


def read_config(path: Path, command: type[T]) -> T:
    """The dataclass stored in a JSON file, such as a run's config.json.

    Raises MissingError, CorruptError (no JSON object) or UsageError (an unknown key, a wrong value).
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(f"no config file {path}: every run writes one as RUN/config.json") from None
    except (ValueError, OSError) as error:
        raise CorruptError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(stored, dict):
        raise CorruptError(f"{path} holds {type(stored).__name__}, expected one JSON object")
    return from_dict(stored, command, where=str(path))


def from_dict(stored: Mapping[str, object], command: type[T], where: str) -> T:
    """The dataclass from plain JSON values; lists become tuples and strings paths where the field says so."""
    hints = get_type_hints(command)
    known = {f.name for f in dataclasses.fields(command) if f.init}  # pyright: ignore[reportArgumentType]
    unknown = sorted(set(stored) - known)
    if unknown:
        raise UsageError(f"{where}: unknown key {unknown[0]!r}; known keys: {', '.join(sorted(known))}")
    return command(**{name: convert(value, hints[name], f"{where}: {name}") for name, value in stored.items()})


def convert(value: object, hint: Any, where: str) -> object:
    """The value as the type of its field, a tuple, path, number, word ...; UsageError where it is none."""
    if get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"{where} is {value!r}, expected a list")
        return tuple(convert(item, get_args(hint)[0], where) for item in value)
    if hint in (Path, Path | None) and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) is int:
        return float(value)
    if get_origin(hint) is Literal and value not in get_args(hint):
        raise UsageError(f"{where} is {value!r}, expected one of {', '.join(map(repr, get_args(hint)))}")
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise UsageError(f"{where} is {value!r}, expected {hint.__name__}")
    return value


def to_json(command: DataclassInstance) -> dict[str, Any]:
    """The fields of a dataclass as plain JSON values."""
    return {
        f.name: str(v) if isinstance(v := getattr(command, f.name), Path) else list(v) if isinstance(v, tuple) else v
        for f in dataclasses.fields(command)
    }
