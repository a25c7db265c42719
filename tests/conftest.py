"""Settings shared by all tests: the same examples in every run, and no network."""

import os

import pytest
from hypothesis import settings

# Derandomised: a red test is red for everyone, and a green one does not turn red by the draw of the day.
settings.register_profile("dither", derandomize=True, deadline=None, database=None)
settings.load_profile("dither")

os.environ["DITHER_OFFLINE"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also the long forms of generated tests, of which a sample runs else")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        long = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if item not in set(long)]
        config.hook.pytest_deselected(items=long)
