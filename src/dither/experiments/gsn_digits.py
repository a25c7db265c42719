"""Denoising auto-encoders and generative stochastic networks on the embedded digits: the whole table and all pictures in
minutes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Config:
    """Denoising auto-encoders and GSNs on the embedded 8 x 8 digits, judged and drawn: minutes."""

    data: str = "digits"
    methods: tuple[str, ...] = ("dae", "dae-walkback", "gsn-1", "gsn-2", "gsn-3", "gsn-mixture", "dae-levels")
    seeds: tuple[int, ...] = (0,)
    width: int | None = 200
    """of every hidden layer; None: the recipe's"""
    epochs: int = 40
    epochs_of: tuple[tuple[str, int], ...] = (("gsn-3", 20), ("gsn-mixture", 20), ("dae-levels", 30))
    """other numbers of epochs, by method: dae 200 gsn-3 50"""
    batch_size: int = 20
    checkpoints: int = 5
    """how many of the last are judged by Parzen; the best of them on validation is the chosen one"""
    checkpoints_of: tuple[tuple[str, int], ...] = ()
    """other numbers of them, by method"""
    samples: int = 1000
    """of the chain that Parzen takes, and of the chains that the rest takes"""
    chains: int = 20
    steps: int = 500
    burn_in: int = 100
    precision: str = "float32"
    """of products: float32, or bfloat16 with float32 parameters"""
    with_validation: bool = True
    """train on the validation part too, as the authors did"""
    threads: int = 1
    device: str = "cpu"
    """where to train, sample and judge, such as cpu or cuda"""
    data_dir: Path | None = None


def run(config: Config, folder: Path, progress: Callable[[str], None] = print) -> dict[str, Any]:
    """Train, sample, judge; see `_gsn_table.run`."""
    from dither.experiments import _gsn_table

    return _gsn_table.run(config, folder, progress)


def figures(curves: list[dict[str, Any]]) -> Any:
    from dither.experiments import _gsn_table

    return _gsn_table.figures(curves)
