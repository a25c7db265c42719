"""`dither sample`: draw from a trained denoising model, or complete an image of which a half is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from dither.cli.errors import OK, MissingError, UsageError
from dither.cli.out import Out
from dither.cli.parse import parse


@dataclass(frozen=True)
class Command:
    """Draw consecutive samples of a run's chain, or with --clamp completions of a test image; print the pictures' paths."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """Folder of a run of `dither experiment gsn-digits`, gsn-mnist or gsn-frey, such as runs/gsn-digits/gsn-mixture-0."""
    clamp: Literal["none", "left", "right", "top", "bottom"] = "none"
    """Which half of the image is given; the other half is drawn."""
    image: int = 0
    """Number of the test image where the chain starts, and which is clamped."""
    steps: int = 200
    """Steps of the chain."""
    thin: int = 1
    """Show every so-many-th step; completions are always spread over the steps."""
    step: int | None = None
    """Training step of the checkpoint; default the newest."""
    seed: int = 0
    out: Path | None = None
    """Folder for the pictures; default RUN/figures."""
    data_dir: Path | None = None
    """Where the data are, if not in $DITHER_DATA or the cache."""
    json: bool = False
    """One JSON object a line on stdout."""
    quiet: bool = False
    """No hints on stderr."""


def main(arguments: Sequence[str]) -> int:
    return run(parse(Command, arguments, "dither sample"))


def run(command: Command) -> int:
    from dither import data, files, plots
    from dither.experiments.denoising import pictures, training

    if not (command.run / "config.json").is_file():
        raise MissingError(f"{command.run} is no run: train some with dither experiment gsn-digits")
    out = Out(json=command.json, quiet=command.quiet)
    try:
        model = training.load(command.run, command.step)
    except ValueError as error:
        raise UsageError(str(error)) from None
    dataset = data.load(files.read_json(command.run / "config.json")["data"], command.data_dir)
    x, shape = dataset.test.x, (dataset.shape[1], dataset.shape[2])
    if not 0 <= command.image < len(x):
        raise UsageError(f"--image {command.image}: the test part has images 0 to {len(x) - 1}")
    if command.steps < 1 or not 1 <= command.thin <= command.steps:
        raise UsageError(f"--steps {command.steps} --thin {command.thin}: 1 <= thin <= steps is needed")
    chosen = x[command.image]
    if command.clamp == "none":
        figure = pictures.samples(model, chosen, shape, command.steps, command.seed, command.thin, title=command.run.name)
        name = f"sample-{command.image}"
    else:
        one, train = chosen.unsqueeze(0), dataset.train.x
        figure = pictures.inpainting(model, one, train, shape, command.clamp, command.steps, command.seed)
        name = f"sample-{command.image}-{command.clamp}"
    paths = plots.save(figure, (command.out or command.run / "figures") / name)
    out.table([{"figure": str(path)} for path in paths]) if out.json else [out.line(str(path)) for path in paths]
    return OK
