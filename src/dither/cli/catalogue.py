"""What `experiment` and `bench` share: a table of names, running one of them by its own dataclass, and publishing it."""

from __future__ import annotations

import difflib
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from dither.cli import pictures
from dither.cli.errors import OK, USAGE, UsageError
from dither.cli.out import Out
from dither.cli.parse import parse, to_json
from dither.cli.setup import PLACES, check_device
from dither.tables import Result

# name -> (module, one line). Each module has a frozen dataclass `Config` and run(config, folder, progress) ->
# {"rows": [flat dicts], ...}. Its "curves", also flat dicts, are drawn by the module's figures(curves) ->
# [(name, figure), ...], or else as learning curves. "figures", (name, figure), are pictures of what no row holds, such as
# samples of a model.
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


def run(verb: str, name: str, module: ModuleType, arguments: Sequence[str]) -> int:
    """Runs one, prints its rows, and keeps them in NAME.json with what they were made by and on."""
    command = parse(extended(module.Config), arguments, f"dither {verb} {name}")
    config = module.Config(**{f.name: getattr(command, f.name) for f in fields(module.Config)})
    out = Out(json=command.json, quiet=command.quiet)
    if hasattr(config, "device"):
        check_device(config.device)
    if command.figures and not command.publish:
        raise UsageError("--figures chooses which pictures are published: give --publish FOLDER too")
    git = published_tree() if command.publish else None  # before the work: it would be lost
    folder = command.out or Path(os.environ.get("DITHER_RUNS", "runs")) / name
    began = time.monotonic()
    result = checked(module.run(config, folder, out.note), f"{verb} {name!r}: {module.__name__}.run")
    payload = {
        "command": shlex.join(["dither", verb, name, *without_places(arguments)]),
        "seconds": round(result.get("seconds", time.monotonic() - began), 1),
        "environment": environment() | ({"git": git} if git else {}),
        "config": {k: v for k, v in to_json(config).items() if k not in PLACES},
        "rows": result["rows"],
    }
    for path in write(f"{name}-{command.label}" if command.label else name, payload, result, module, folder, command):
        out.note(f"wrote {path}")
    out.table(result["rows"])
    return OK


def checked(result: Any, who: str) -> dict[str, Any]:
    """What `run` returned, if it is a `tables.Result`. Raises ValueError naming whose it is, what it is and what it must be."""
    known = Result.__annotations__
    if not isinstance(result, Mapping):
        what = type(result).__name__
    elif "rows" not in result:
        what = f"a dict without rows, of {', '.join(map(repr, result)) or 'nothing'}"
    elif unknown := [key for key in result if key not in known]:
        what = f"a dict with the unknown key {unknown[0]!r}"
    elif wrong := [k for k in ("rows", "curves", "figures") if not isinstance(result.get(k, []), (list, tuple))]:
        what = f"{wrong[0]} of type {type(result[wrong[0]]).__name__}"
    elif wrong := [row for row in result["rows"] if not isinstance(row, Mapping)]:
        what = f"a row of type {type(wrong[0]).__name__}"
    else:
        return dict(result)
    raise ValueError(
        f'{who} returned {what}; it must return {{"rows": [{{column: value}}, ...]}}, and may add '
        f"{', '.join(key for key in known if key != 'rows')} (dither.tables.Result)"
    )


def write(
    name: str, payload: dict[str, Any], result: dict[str, Any], module: ModuleType, folder: Path, command: Any
) -> Iterator[Path]:
    """Writes NAME.json and all pictures into the run's folder; publishes the JSON, and of the pictures those asked for."""
    from dither import plots, results

    yield results.save(name, payload, folder)
    curves, drawn = result.get("curves"), list(result.get("figures", ()))
    if command.publish:
        yield results.save(name, payload, command.publish)
        if curves:
            yield results.save(f"{name}-curves", {**payload, "rows": results.thin(curves)}, command.publish)
    if curves:
        drawn += pictures.of_curves(module, curves)
    for title, figure in drawn:
        yield from plots.save(figure, folder / "figures" / title)
    if command.figures:
        yield from pictures.publish(pictures.selected(drawn, command.figures), command.publish / "figures", name)


# --- publishing ---------------------------------------------------------------------------------------------------------
def published_tree() -> dict[str, Any]:
    """{"commit", "dirty": False}. Raises UsageError where nobody could check out the code that is about to run."""
    from dither.training import environment

    state = environment.git_state(environment.PACKAGE)
    if state is None:
        raise UsageError("--publish: this code is in no git checkout, so no commit can be named; run it from a clone of dither")
    if state["dirty"]:
        raise UsageError(
            f"--publish: the tree has changes that are not in commit {state['commit'][:12]}, so nobody could check out what "
            "made the result; commit them (git status lists them), or run without --publish"
        )
    return state


# --- the command line ---------------------------------------------------------------------------------------------------
def extended(config: type) -> type:
    """The dataclass `config` with the flags that every experiment has."""
    import tyro

    def flag(name: str, kind: Any, default: Any, text: str):
        return name, Annotated[kind, tyro.conf.arg(help=text)], field(default=default)

    extra = [
        flag("out", Path | None, None, "Folder of the runs, default runs/NAME; finished ones are not repeated."),
        flag(
            "publish",
            Path | None,
            None,
            "Folder that gets a copy for README and docs: NAME.json and NAME-curves.json. The tree must be clean.",
        ),
        flag("figures", tuple[str, ...], (), "Pictures to publish too, as figures/NAME-PICTURE.png."),
        flag("label", str, "", "Added to NAME in all file names, for a variant beside the plain one."),
        flag("json", bool, False, "One JSON object a line on stdout."),
        flag("quiet", bool, False, "No progress and no hints on stderr."),
    ]
    command = make_dataclass("Command", extra, bases=(config,), frozen=True)
    command.__doc__ = config.__doc__
    return command


def without_places(arguments: Sequence[str]) -> list[str]:
    """The arguments that change the result: a published command names no folder of the machine it ran on."""
    telling, skip = [], False
    for argument in arguments:
        name, _, value = argument.partition("=")
        place = name in ("--out", "--publish", "--figures", "--label", "--data-dir", "--data_dir")
        skip = (place and not value) or (skip and not argument.startswith("--"))  # --figures has several values
        if not (skip or place or argument in ("--json", "--quiet")):
            telling.append(argument)
    return telling


def environment() -> dict[str, Any]:
    from dither.training.environment import environment

    return environment()


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
