"""Native kernels of dither. Nothing to call here: `dither.kernels` loads the library that this package holds."""

from pathlib import Path

__version__ = "0.1.0"


def library() -> Path:
    """The shared library, or where it should be."""
    return Path(__file__).with_name("dither_kernels.so")
