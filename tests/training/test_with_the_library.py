"""The loop with the library's own net and estimators: an interrupted run resumes to the same bits."""

import pytest
import torch
import torch.nn.functional as F

import dither
from dither.training.loop import fit
from dither.training.run_folder import RunFolder

ESTIMATORS = {
    "straight-through": dither.StraightThrough,
    "optimal": lambda net: dither.ScoreFunction(net, baseline="optimal"),
    "mean": lambda net: dither.ScoreFunction(net, baseline="mean"),
    "leave-one-out": lambda net: dither.ScoreFunction(net, baseline="leave-one-out", samples=3),
}


def parts(name):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 8), dither.Bernoulli(), torch.nn.Linear(8, 2))
    x = torch.randn(40, 5)
    return {
        "model": net,
        "estimator": ESTIMATORS[name](net),
        "optimizer": torch.optim.Adam(net.parameters(), 0.01),
        "cost": lambda model, a, b: F.cross_entropy(model(a), b, reduction="none"),
        "train": (x, (x[:, 0] > 0).long()),
        "epochs": 3,
        "batch_size": 8,
        "seed": 3,
        "evaluate": lambda: {"accuracy": (net(x).argmax(1) == (x[:, 0] > 0)).double().mean().item()},
    }


@pytest.mark.parametrize("name", ESTIMATORS)
def test_resumed_is_bit_identical(tmp_path, name):
    whole = parts(name)
    records = fit(**whole)
    with RunFolder.create(tmp_path, {}) as run:
        first = parts(name)
        calls = iter(range(100))
        cost = first["cost"]

        def crashing(*arguments):
            if next(calls) > 8:
                raise RuntimeError("power cut")
            return cost(*arguments)

        with pytest.raises(RuntimeError, match="power cut"):
            fit(**{**first, "cost": crashing}, run=run, checkpoint_every=2)
        second = parts(name)
        assert fit(**second, run=run, resume=True, checkpoint_every=2) == records
    for key, tensor in second["model"].state_dict().items():
        assert torch.equal(tensor, whole["model"].state_dict()[key])
