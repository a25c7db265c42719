"""The preset `gsn-frey`: the same on the Frey faces, for the Toronto Face Database, which is not public."""

from __future__ import annotations

from dataclasses import dataclass

from dither.experiments.denoising import experiment
from dither.experiments.denoising.experiment import figures, run

__all__ = ["Config", "figures", "run"]


@dataclass(frozen=True)
class Config(experiment.Config):
    """Denoising auto-encoders and GSNs by their authors' recipes on the Frey faces, evaluated and drawn."""

    data: str = "frey_faces"
    methods: tuple[str, ...] = ("dae", "dae-walkback", "gsn-1", "gsn-2", "gsn-3", "gsn-mixture", "dae-multiscale-grey")
    width: int | None = 1000
