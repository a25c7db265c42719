"""Mosaics hold the images' own pixels, each in its place, and files of them are the same bytes every time."""

import base64
import io
import re
import struct

import matplotlib.image
import numpy as np
import pytest
import torch

from dither import plots
from dither.plots import images
from dither.plots.images import TINT

TALL = (4, 3)  # height and width differ, so that a transposed image shows


def random(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(28))


def picture(ax):
    return np.asarray(ax.images[0].get_array())


def tile(ax, row, column, shape=TALL, gap=1):
    """The pixels at a place of a plain grid, worked out here a second time."""
    (height, width), whole = shape, picture(ax)
    y, x = row * (height + gap), column * (width + gap)
    return whole[y : y + height, x : x + width]


def grey(image, shape=TALL):
    return image.double().reshape(*shape, 1).expand(*shape, 3).numpy()


def test_every_image_is_in_its_place_pixel_by_pixel():
    x = random(6, 12)
    for ax in (
        images.grid(x, rows=2, shape=TALL),
        images.grid(x, columns=3, shape=TALL),
        images.grid(x.view(2, 3, 12), shape=TALL),
        images.grid(x.view(2, 3, 12).numpy(), shape=TALL, ax=plots.new_axes()),
    ):
        assert picture(ax).shape == (2 * 4 + 1, 3 * 3 + 2, 3)
        for i in range(6):
            assert (tile(ax, i // 3, i % 3) == grey(x[i])).all()
        assert (picture(ax)[4] == 1).all() and (picture(ax)[:, 3] == 1).all()  # the gaps are white
        assert ax.images[0].get_interpolation() == "none" and ax.get_aspect() == 1


def test_wide_gaps_inverted_ink_and_places_left_over():
    x = random(5, 12)
    ax = images.grid(x, shape=TALL, gap=2, invert=True)
    assert picture(ax).shape == (2 * 4 + 2, 3 * 3 + 4, 3)  # as square as can be
    assert (tile(ax, 1, 1, gap=2) == 1 - grey(x[4])).all()
    assert (tile(ax, 1, 2, gap=2) == 1).all()
    assert (tile(images.grid(x, shape=TALL), 1, 2) == 1).all()


def test_frames_and_labels_are_at_their_images():
    ax = images.grid(random(2, 3, 12), shape=TALL, gap=1, highlight=[(1, 2)], labels=["GSN", "DAE"], title="Samples")
    (frame,) = ax.patches
    assert frame.get_bbox().bounds == (8 - 0.5, 5 - 0.5, 3, 4)  # of the tile at x 8 to 10, y 5 to 8
    assert [text.get_text() for text in ax.get_yticklabels()] == ["GSN", "DAE"]
    assert list(ax.get_yticks()) == [1.5, 6.5] and ax.get_title(loc="left") == "Samples"


def test_a_chain_is_read_row_by_row():
    chain = random(7, 12)
    ax = images.consecutive(chain, columns=3, shape=TALL, first=100)
    for step in range(7):
        assert (tile(ax, step // 3, step % 3) == grey(chain[step])).all()
    assert [text.get_text() for text in ax.get_yticklabels()] == ["100", "103", "106"]
    assert picture(images.consecutive(random(40, 12), shape=TALL)).shape == (2 * 4 + 1, 20 * 3 + 19, 3)


def completed(n=2, k=3):
    original, clamp = random(n, 12), torch.arange(12) % 3 > 0  # the left column is not clamped
    filled = torch.where(clamp, original[:, None], random(n, k, 12))
    return original, clamp, filled


@pytest.mark.parametrize("invert", [False, True])
def test_inpainting_shows_what_is_clamped_and_tints_the_rest(invert):
    original, clamp, filled = completed()
    nearest = random(2, 12)
    ax = images.inpainting(original, clamp, filled, nearest, TALL, invert=invert)
    whole = picture(ax)
    lefts = [0, 7, 14, 18, 22, 29]  # tiles of 3 and gaps of 1; gaps of 4 between the groups
    assert whole.shape == (9, 32, 3)

    def shown(image):
        return 1 - grey(image) if invert else grey(image)

    for row in range(2):
        tiles = [whole[row * 5 : row * 5 + 4, left : left + 3] for left in lefts]
        assert (tiles[0] == shown(original[row])).all() and (tiles[5] == shown(nearest[row])).all()
        for k in range(3):
            assert (tiles[2 + k] == shown(filled[row, k])).all()
        assert (tiles[1][:, 1:] == shown(original[row])[:, 1:]).all() and (tiles[1][:, 0] == TINT).all()
    assert [patch.get_bbox().bounds for patch in ax.patches] == [(28.5, -0.5, 3, 4), (28.5, 4.5, 3, 4)]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["original", "given", "completions", "nearest"]
    assert list(ax.get_xticks()) == [1, 8, 19, 30]


def test_inpainting_with_a_mask_for_each_example_and_nothing_nearest():
    original, clamp, filled = completed()
    mask = torch.stack([clamp, torch.ones(12, dtype=torch.bool)])
    filled[1] = original[1]
    ax = images.inpainting(original, mask, filled, shape=TALL, labels=["a", "b"])
    assert (picture(ax)[5:9, 7:10] == grey(original[1])).all() and not ax.patches
    assert [text.get_text() for text in ax.get_xticklabels()] == ["original", "given", "completions"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: images.grid(random(4, 12)), r"images has 12 pixels each, expected 28 \* 28 = 784"),
        (lambda: images.grid(random(4, 1, 4, 3), shape=TALL), r"images has shape \(4, 1, 4, 3\), expected \(n, pixels\)"),
        (lambda: images.grid(random(0, 12), shape=TALL), "not empty"),
        (lambda: images.grid(random(4, 12) * 2 - 1, shape=TALL), r"images has values from -0\.9\d+ to .*, expected \[0, 1\]"),
        (lambda: images.grid(random(4, 12) / 0, shape=TALL), "images has 48 values that are not finite"),
        (lambda: images.grid(["a"], shape=TALL), "images is of type <U1"),
        (lambda: images.grid(random(4, 12), rows=1, columns=3, shape=TALL), r"4 images do not fit in rows=1 .* images\[:3\]"),
        (lambda: images.grid(random(4, 12), columns=0, shape=TALL), "do not fit in rows=4 x columns=0"),
        (lambda: images.grid(random(2, 2, 12), rows=4, shape=TALL), "images is 2 x 2, not rows=4"),
        (lambda: images.grid(random(4, 12), shape=TALL, labels=["a"]), "labels has 1 entries for 2 rows"),
        (lambda: images.grid(random(4, 12), shape=TALL, highlight=[(0, 2)]), r"highlight has \(0, 2\), outside the 2 rows"),
        (lambda: images.grid(random(4, 12), shape=TALL, highlight=[(-1, 0)]), r"highlight has \(-1, 0\)"),
        (lambda: images.grid(random(4, 12), shape=TALL, gap=-1), "gap is -1"),
        (lambda: images.consecutive(random(4, 2, 12), shape=TALL), r"chain has shape .* expected \(steps, pixels\)"),
        (lambda: images.consecutive(random(4, 12) + 1, shape=TALL), "chain has values from"),
        (lambda: images.consecutive(random(4, 12), columns=0, shape=TALL), "columns is 0"),
        (lambda: images.inpainting(*completed()[:2], random(3, 2, 12), shape=TALL), "completions is of 3 x 12 pixels"),
        (lambda: images.inpainting(*completed(), random(3, 12), shape=TALL), "nearest is of 3 x 12 pixels"),
        (lambda: images.inpainting(random(2, 12), random(12), random(2, 3, 12), shape=TALL), "clamp has .* expected a bool"),
        (lambda: images.inpainting(random(2, 12), torch.ones(11).bool(), random(2, 3, 12), shape=TALL), r"clamp has .*\(11,\)"),
        (
            lambda: images.inpainting(completed()[0], completed()[1], random(2, 3, 12) / 2, shape=TALL),
            "completions differ from original in 48 clamped pixels",
        ),
    ],
)
def test_refuses(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def draw():
    return images.inpainting(*completed(), random(2, 12), TALL, labels=["seven", "two"], title="Left column")


def test_the_bytes_are_the_same_every_time(tmp_path):
    first, other = draw().figure, draw().figure
    saved = [[path.read_bytes() for path in plots.save(figure, tmp_path / "a")] for figure in (first, first, other, first)]
    assert saved[0] == saved[1] == saved[2] == saved[3]


def test_the_svg_holds_the_pixels_themselves(tmp_path):
    x = (random(4, 12) * 255).round() / 255
    svg = plots.svg(images.grid(x, shape=TALL).figure)
    (stored,) = re.findall(r'xlink:href="data:image/png;base64,\s*([^"]+)"', svg)
    pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(stored)))
    assert pixels.shape[:2] == (9, 7) and "image-rendering:pixelated" in svg
    assert np.abs(pixels[:4, :3, 0] - x[0].view(4, 3).numpy()).max() < 1e-6


@pytest.mark.parametrize("labels", [None, ["a long label", "b"]])
def test_in_the_png_each_pixel_is_a_square_of_dots(tmp_path, labels):
    x = (random(4, 12) * 255).round() / 255
    ax = images.grid(x, shape=TALL, labels=labels)
    (_, path) = plots.save(ax.figure, tmp_path / "a")
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    dots = 112 // 4
    pixels = matplotlib.image.imread(path)[..., 0]
    # Labels lie to the left; above, below and to the right is only the edge.
    edge = 6
    assert (pixels.shape, height) == ((height, width), 9 * dots + 2 * edge)
    mosaic = pixels[edge : edge + 9 * dots, width - edge - 7 * dots : width - edge]
    expected = picture(ax)[..., 0].repeat(dots, 0).repeat(dots, 1)
    assert np.abs(mosaic - expected).max() < 1e-6
