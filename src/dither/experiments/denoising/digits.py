"""The preset `gsn-digits`: the whole table and all pictures of the embedded digits in minutes."""

from __future__ import annotations

from dataclasses import dataclass

from dither.experiments.denoising import experiment
from dither.experiments.denoising.experiment import figures, run

__all__ = ["Config", "figures", "run"]


@dataclass(frozen=True)
class Config(experiment.Config):
    """Denoising auto-encoders and GSNs on the embedded 8 x 8 digits, evaluated and drawn: minutes."""

    data: str = "digits"
    width: int | None = 200
    epochs: int = 40
    epochs_of: tuple[tuple[str, int], ...] = (("gsn-3", 20), ("gsn-mixture", 20), ("dae-multiscale", 30))
    batch_size: int = 20
    checkpoints: int = 5
    samples: int = 1000
    chains: int = 20
    steps: int = 500
    burn_in: int = 100
