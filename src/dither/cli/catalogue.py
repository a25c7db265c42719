"""What `experiment` and `bench` share: a table of names, and running one of them by its own dataclass."""

from __future__ import annotations

import difflib
import os
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from dither.cli.errors import OK, USAGE, UsageError
from dither.cli.out import Out
from dither.cli.parse import parse, to_json
from dither.cli.setup import PLACES, check_device

# name -> (module, one line). Each module is torch-free at import and has a frozen dataclass `Config` and
# run(config, folder, progress) -> {"rows": [flat dicts], ...}. Its "curves", also flat dicts, are drawn by the module's
# figures(curves) -> [(name, figure), ...], or else as learning curves. "figures", (name, figure), are pictures of other things.
Entries = Mapping[str, tuple[str, str]]


def main(verb: str, entries: Entries, arguments: Sequence[str]) -> int:
    """`dither VERB list`, or `dither VERB NAME [OPTIONS]`."""
    first, rest = (arguments[0], list(arguments[1:])) if arguments else ("", [])
    if first in ("-h", "--help"):
        print(usage(verb, entries), end="")
        return OK
    if first == "list":
        listing = parse(Listing, rest, f"dither {verb} list")
        Out(json=listing.json).table([{"name": name, "about": text} for name, (_, text) in entries.items()])
        return OK
    if first not in entries:
        return unknown(verb, entries, first)
    return run(verb, first, import_module(entries[first][0]), rest)


def run(verb: str, name: str, module: Any, arguments: Sequence[str]) -> int:
    """Runs one, prints its rows, and keeps them in NAME.json with what they were made by and on."""
    from dither import results

    command = parse(extended(module.Config), arguments, f"dither {verb} {name}")
    config = module.Config(**{f.name: getattr(command, f.name) for f in fields(module.Config)})
    out = Out(json=command.json, quiet=command.quiet)
    if hasattr(config, "device"):
        check_device(config.device)
    folder = command.out or Path(os.environ.get("DITHER_RUNS", "runs")) / name
    began = time.monotonic()
    result = module.run(config, folder, out.note)
    payload = {
        "command": shlex.join(["dither", verb, name, *without_places(arguments)]),
        "seconds": round(result.get("seconds", time.monotonic() - began), 1),
        "environment": environment(),
        "config": {k: v for k, v in to_json(config).items() if k not in PLACES},
        "rows": result["rows"],
    }
    name = f"{name}-{command.label}" if command.label else name
    saved = [results.save(name, payload, target) for target in (folder, command.publish) if target]
    pictures = list(result.get("figures", ()))
    if result.get("curves"):
        pictures += getattr(module, "figures", learning)(result["curves"])
        if command.publish:
            saved.append(results.save(f"{name}-curves", {**payload, "rows": result["curves"]}, command.publish))
    saved += draw(pictures, folder / "figures")
    if command.publish:
        saved += draw(pictures, command.publish / "figures", f"{name}-")
    out.table(result["rows"])
    for path in saved:
        out.note(f"wrote {path}")
    return OK


def extended(config: type) -> type:
    """The dataclass `config` with the flags that every experiment has."""
    import tyro

    def flag(name: str, kind: Any, default: Any, text: str):
        return name, Annotated[kind, tyro.conf.arg(help=text)], field(default=default)

    extra = [
        flag(
            "out",
            Path | None,
            None,
            "Folder of the runs, default runs/NAME; finished ones are not repeated.",
        ),
        flag(
            "publish",
            Path | None,
            None,
            "Folder that gets a copy for README and docs: NAME.json, NAME-curves.json and figures/NAME-*.",
        ),
        flag("label", str, "", "Added to NAME in all file names, for a variant beside the plain one."),
        flag("json", bool, False, "One JSON object a line on stdout."),
        flag("quiet", bool, False, "No progress and no hints on stderr."),
    ]
    made = make_dataclass("Command", extra, bases=(config,), frozen=True)
    made.__doc__ = config.__doc__
    return made


def without_places(arguments: Sequence[str]) -> list[str]:
    """The arguments that change the result: a published command names no folder of the machine it ran on."""
    kept, skip = [], False
    for argument in arguments:
        name, _, value = argument.partition("=")
        place = name in ("--out", "--publish", "--label", "--data-dir", "--data_dir")
        if not (skip or place or argument in ("--json", "--quiet")):
            kept.append(argument)
        skip = place and not value
    return kept


def environment() -> dict[str, Any]:
    from dither.training.environment import environment

    return environment()


def learning(curves: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The learning curves, by epoch (or step, or episode) and by time: (name, figure) of each."""
    from dither.plots import learning_curves

    group = "method" if "method" in curves[0] else "estimator"
    y = next((y for y in ("train_elbo", "return") if y in curves[0]), "validation_accuracy")
    count = next((x for x in ("epoch", "episode") if x in curves[0]), "step")
    for x, name in ((count, "learning"), ("seconds", "learning-by-time")):
        if x in curves[0]:
            yield name, learning_curves.draw(curves, x=x, y=y, group=group).figure


def draw(figures: Iterable[tuple[str, Any]], folder: Path, prefix: str = "") -> list[Path]:
    """Writes each figure as folder/PREFIXNAME.svg and .png, and returns the paths."""
    from dither import plots

    return [path for name, figure in figures for path in plots.save(figure, folder / (prefix + name))]


@dataclass(frozen=True)
class Listing:
    """List the names."""

    json: bool = False
    """One JSON object a line on stdout."""


def usage(verb: str, entries: Entries) -> str:
    names = "\n".join(f"  {name:<15} {text}" for name, (_, text) in entries.items())
    return f"usage: dither {verb} list | NAME [OPTIONS]\n\n{names}\n\nOptions of one: dither {verb} NAME --help\n"


def unknown(verb: str, entries: Entries, name: str) -> int:
    if not name:
        raise UsageError(f"which one? dither {verb} list names them")
    near = difflib.get_close_matches(name, entries, n=1)
    hint = f"; perhaps you meant: dither {verb} {near[0]}" if near else ""
    Out().error(f"there is no {verb} {name!r}, known are {', '.join(entries)}{hint}")
    return USAGE
