"""The pictures of a result: what its curves give, and which of them are published, as PNG that are small."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dither.cli.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

Picture = tuple[str, "Figure"]  # its name, and it
GREYS, COLOURS = 32, 128


def of_curves(module: ModuleType, curves: list[dict[str, Any]]) -> Iterable[Picture]:
    """What an experiment draws from its curves alone: by its own `figures`, or else as learning curves."""
    return getattr(module, "figures", learning)(curves)


def learning(curves: list[dict[str, Any]]) -> Iterator[Picture]:
    """The learning curves, by epoch (or step, or episode) and by time: (name, figure) of each."""
    from dither.plots import learning_curves

    group = "method" if "method" in curves[0] else "estimator"
    y = next((y for y in ("train_elbo", "return") if y in curves[0]), "validation_accuracy")
    count = next((x for x in ("epoch", "episode") if x in curves[0]), "step")
    for x, name in ((count, "learning"), ("seconds", "learning-by-time")):
        if x in curves[0]:
            yield name, learning_curves.draw(curves, x=x, y=y, group=group).figure  # type: ignore[misc]


def selected(pictures: Iterable[Picture], names: Sequence[str]) -> list[Picture]:
    """Those of the names, in their order. Raises UsageError for a name that is not there."""
    by_name = dict(pictures)
    if absent := [name for name in names if name not in by_name]:
        raise UsageError(f"--figures {absent[0]}: there is no such picture; there are {', '.join(by_name) or 'none'}")
    return [(name, by_name[name]) for name in names]


def publish(pictures: Iterable[Picture], folder: Path, name: str) -> Iterator[Path]:
    """Writes folder/NAME-PICTURE.png of each."""
    from dither import plots

    for title, figure in pictures:
        vector, png = plots.save(figure, folder / f"{name}-{title}")
        vector.unlink()  # no page shows it, and it is as large again
        shrink(png)
        yield png


def shrink(png: Path) -> None:
    """Writes the picture in few colours: a third of the bytes, and the same to the eye."""
    import io

    from PIL import Image

    from dither import files

    with Image.open(png) as image:
        small = few_colours(image.convert("RGB"))
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    files.write_atomic(png, buffer.getvalue())


def few_colours(image: Image) -> Image:
    """Greys in even steps, and besides them the most frequent colours, which are those of lines and areas.

    What lies between those, at their edges, takes the nearest one.
    """
    import numpy as np
    from PIL import Image

    pixels = np.asarray(image).reshape(-1, 3)
    even = np.round(pixels / 255 * (GREYS - 1)) * 255 / (GREYS - 1)
    pixels = np.where((pixels == pixels[:, :1]).all(1, keepdims=True), even.astype(np.uint8), pixels)
    colours, index, counts = np.unique(pixels, axis=0, return_inverse=True, return_counts=True)
    palette = colours[np.sort(np.argsort(-counts, kind="stable")[:COLOURS])]
    distance = np.square(colours[:, None].astype(np.int32) - palette).sum(2)
    small = Image.frombytes("P", image.size, distance.argmin(1).astype(np.uint8)[index.reshape(-1)].tobytes())
    small.putpalette(palette.tobytes())
    return small
