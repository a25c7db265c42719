"""The names that other experiments import from here, until they take them from where these are now."""

from dither.experiments.core.cache import read as finished
from dither.experiments.core.cache import write as finish
from dither.training.run_folder import RunFolder

open_run = RunFolder.of
__all__ = ["finish", "finished", "open_run"]
