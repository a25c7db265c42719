"""The models of gsn-mnist on the Frey faces, which stand in for the Toronto Face Database: that one is not public."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Config:
    """Denoising auto-encoders and GSNs by their authors' recipes on the Frey faces, judged and drawn."""

    data: str = "frey_faces"
    methods: tuple[str, ...] = ("dae", "dae-walkback", "gsn-1", "gsn-2", "gsn-3", "gsn-mixture", "dae-levels-grey")
    seeds: tuple[int, ...] = (0,)
    width: int | None = 1000
    """of every hidden layer; None: the recipe's"""
    epochs: int = 100
    epochs_of: tuple[tuple[str, int], ...] = ()
    """other numbers of epochs, by method: dae 200 gsn-3 50"""
    batch_size: int = 100
    checkpoints: int = 4
    """how many of the last are judged by Parzen; the best of them on validation is the chosen one"""
    checkpoints_of: tuple[tuple[str, int], ...] = ()
    """other numbers of them, by method"""
    samples: int = 10_000
    """of the chain that Parzen takes, and of the chains that the rest takes"""
    chains: int = 100
    steps: int = 1000
    burn_in: int = 200
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
