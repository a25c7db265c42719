"""`dither env`: what a result may depend on besides its configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dither.cli.errors import OK
from dither.cli.out import Out, Row, cell
from dither.cli.parse import parse


@dataclass(frozen=True)
class Command:
    """Print versions and hardware, to paste into a report. No host name, user name or path is in it."""

    json: bool = False
    """As one JSON object."""


def main(arguments: Sequence[str]) -> int:
    return run(parse(Command, arguments, "dither env"))


def run(command: Command) -> int:
    from dither.training.environment import environment

    out = Out(json=command.json)
    facts = environment()
    out.record(facts)
    for name, value in flatten(facts):
        out.line(f"{name:<22} {value}")
    return OK


def flatten(values: Row, prefix: str = "") -> Iterator[tuple[str, str]]:
    """("cpu.count", "8") for {"cpu": {"count": 8}}."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, cell(value) or "-"
