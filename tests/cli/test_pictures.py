"""Published pictures have few colours, and the ones that matter."""

import numpy as np
import pytest
from PIL import Image

from dither.cli import pictures


def test_a_coloured_picture_keeps_its_most_frequent_colours_exactly(tmp_path):
    pixels = np.full((100, 100, 3), 255, np.uint8)
    pixels[10:90, 10:20] = lines = (0xD5, 0x5E, 0x00)
    pixels[10:90, 30:90] = np.random.default_rng(0).integers(0, 256, (80, 60, 3))  # 4,800 colours, once each
    Image.fromarray(pixels).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").stat().st_size
    pictures.shrink(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as small:
        assert small.size == (100, 100) and len(small.getcolors()) <= pictures.COLOURS
        assert small.convert("RGB").getpixel((15, 50)) == lines and small.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
    assert (tmp_path / "a.png").stat().st_size < before / 2


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_grey_picture_stays_grey_from_black_to_white(tmp_path, mode):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (40, 1))
    Image.fromarray(ramp).convert(mode).save(tmp_path / "a.png")
    pictures.shrink(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        small = np.asarray(image.convert("RGB")).astype(int)
    assert (small == small[:, :, :1]).all() and len(np.unique(small)) == pictures.GREYS
    assert np.abs(small[:, :, 0] - ramp).max() <= 255 / (pictures.GREYS - 1) / 2 + 1
    assert (small[0, 0, 0], small[0, 255, 0]) == (0, 255)
