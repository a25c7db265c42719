"""The preset `gsn-mnist`: the authors' recipes on MNIST."""

from __future__ import annotations

from dataclasses import dataclass

from dither.experiments.denoising import experiment
from dither.experiments.denoising.experiment import figures, run

__all__ = ["Config", "figures", "run"]


@dataclass(frozen=True)
class Config(experiment.Config):
    """Denoising auto-encoders and GSNs by their authors' recipes on MNIST, evaluated and drawn."""

    data: str = "mnist"
    checkpoints_of: tuple[tuple[str, int], ...] = (("gsn-2", 10),)
