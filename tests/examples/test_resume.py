"""examples/binary_conv.py goes on from its checkpoint with the same weights to the last bit."""

from functools import partial
from pathlib import Path

import pytest

import dither
from dither.experiments.examples.programs import load

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "binary_conv.py"


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler's own
def test_a_training_in_two_parts_ends_as_one_does(tmp_path):
    # A moving baseline, so that the estimator has a state without which the second part would be another.
    train = partial(load(PROGRAM).train, partial(dither.ScoreFunction, baseline="mean"), backend="eager", every=2)
    whole = train(steps=4)
    first = train(steps=3, checkpoint=tmp_path / "checkpoint.pt")  # stopped between two checkpoints
    assert first != whole
    assert train(steps=4, checkpoint=tmp_path / "checkpoint.pt") == whole
    assert train(steps=4, checkpoint=tmp_path / "checkpoint.pt") == whole, "nothing is left to do"
