"""The benchmark of a GSN counts its arithmetic and runs."""

from dither.benchmarks.gsn import Config, multiply_adds, steps


def test_the_benchmark_counts_and_runs() -> None:
    config = Config(units=64, width=30, batch_size=20, walk=2, repeats=1, threads=1)
    # up and down of both weights in two steps, but for the first down and the last up of the upper; thrice that with
    # the gradients, but for the one into the corrupted input
    assert multiply_adds(config) == 3 * (2 * 2 * 64 * 30 + 2 * 900) - 2 * 64 * 30
    for step in steps(config).values():
        step()
