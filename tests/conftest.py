"""Settings shared by all tests: the same examples in every run, and no network."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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


@pytest.fixture(scope="session")
def two_ranks() -> Callable[..., object]:
    """with two_ranks(worker, *arguments): processes `worker RANK ARGUMENTS` of ranks 0 and 1 beside the block, and end well."""
    return _two_ranks


@contextmanager
def _two_ranks(worker: Path, *arguments: object, timeout: float = 120) -> Iterator[None]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(worker), str(rank), *map(str, arguments)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        yield
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
