"""Settings shared by all tests: the same examples in every run, and no network."""

import os

from hypothesis import settings

# Derandomised: a red test is red for everyone, and a green one does not turn red by the draw of the day.
settings.register_profile("dither", derandomize=True, deadline=None, database=None)
settings.load_profile("dither")

os.environ["DITHER_OFFLINE"] = "1"
