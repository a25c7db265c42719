"""The options of `gsn-inpainting`, and the sizes of its networks for each data set."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

METHODS = (
    "chain",
    "chain-from-data",
    "chain-multiscale",
    "any-conditional",
    "any-conditional-passes",
    "nearest",
    "random",
)


@dataclass(frozen=True)
class Config:
    """Completions of half-given digits: clamped chains, an any-conditional model, nearest neighbours, chance."""

    data: str = "mnist"
    """mnist, or digits, which takes a minute"""
    methods: tuple[str, ...] = METHODS
    """chain: a GSN's, clamped, from random pixels; chain-from-data: from the pixels of a random training image;
    chain-multiscale: that of a denoising auto-encoder with several noise scales and several modes, from random pixels;
    any-conditional: one network for all conditionals, all pixels at once; any-conditional-passes: in groups, each given
    those before; nearest: halves of the training images nearest in the given half; random: of any training images"""
    images: int = 200
    """test images, the first"""
    completions: int = 10
    """of every image and half"""
    gsn_run: Path | None = None
    """run folder of a trained denoising model, such as runs/gsn-mnist/gsn-2-0; its newest checkpoint is taken. None: a
    GSN-2 is trained on the thresholded images"""
    gsn_width: int | None = None
    """1500 for mnist, 200 for digits"""
    gsn_epochs: int | None = None
    """100"""
    multiscale_run: Path | None = None
    """likewise for chain-multiscale, such as runs/gsn-mnist/dae-multiscale-0. None: one is trained on the thresholded
    images"""
    multiscale_epochs: int | None = None
    """20 for mnist, 60 for digits"""
    burn_in: int = 100
    """steps of a chain to its completion"""
    states: int = 25
    """further steps of each chain, over which P(free half | state) is averaged"""
    conditional_widths: tuple[int, ...] | None = None
    """of the any-conditional model's hidden layers: 1000 1000 for mnist, 300 300 for digits"""
    conditional_epochs: int | None = None
    """12 for mnist, 100 for digits"""
    lr: float = 1e-3
    """of the any-conditional model, by Adam; it falls linearly to zero"""
    passes: int = 32
    """groups of any-conditional-passes"""
    orders: int = 2
    """random orders, one pixel after the other, in which log P(free half) is taken too; 0: none"""
    batch_size: int = 100
    precision: str = "float32"
    """of products: float32, or bfloat16 with float32 parameters"""
    shown: int = 8
    """images in the pictures"""
    seed: int = 0
    threads: int = 1
    data_dir: Path | None = None

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16")


@dataclass(frozen=True)
class Sizes:
    """What the options of the same names are where they are None."""

    gsn_width: int
    gsn_epochs: int
    multiscale_epochs: int
    conditional_widths: tuple[int, ...]
    conditional_epochs: int


SIZES = {"mnist": Sizes(1500, 100, 20, (1000, 1000), 12), "digits": Sizes(200, 100, 60, (300, 300), 100)}


def check(config: Config) -> None:
    """Raises ValueError for what makes no sense."""
    if config.data not in SIZES:
        raise ValueError(f"data is {config.data!r}: there is a classifier for {' and '.join(SIZES)}; take one of these")
    if unknown := sorted(set(config.methods) - set(METHODS)):
        raise ValueError(f"there is no method {unknown[0]!r}; the methods are {', '.join(METHODS)}")
    if config.completions < 2 or config.images < 2 or not 1 <= config.shown <= config.images:
        raise ValueError(
            f"completions={config.completions}, images={config.images}, shown={config.shown}: at least 2 completions of 2 "
            "images are needed, and 1 to all of them shown"
        )


def sizes(config: Config) -> Sizes:
    """The options where they are set, the sizes of the data set where they are None."""
    own = {field.name: getattr(config, field.name) for field in fields(Sizes)}
    return replace(SIZES[config.data], **{name: value for name, value in own.items() if value is not None})
