"""Optimizers and schedulers survive the way through tensors and JSON, exactly."""

import math
from collections import Counter

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from dither import files
from dither.training.state import pack, unpack


def through(state):
    tensors, plain = pack(state, "x")
    return unpack(tensors, files.parse_json(files.dump_json(plain), "state"))


def test_every_kind_of_value_comes_back_as_it_was():
    state = {
        "tuple": (0.1, (1, None)),
        "list": [True, "a"],
        "numbered": {0: {"a": 1}, 10: 2},
        "counter": Counter({3: 1, 5: 2}),
        "marked": {"__tensor__": 1},
        "infinite": [math.inf, -math.inf],
        "large": 10**30,
        "small": 5e-324,
    }
    back = through(state)
    assert back == state
    assert isinstance(back["tuple"], tuple) and isinstance(back["counter"], Counter)
    assert math.isnan(through([math.nan])[0])


def test_tensors_are_named_by_their_path():
    tensors, plain = pack({"state": {0: {"exp_avg": torch.ones(2)}}, "list": [torch.zeros(())]}, "optimizer")
    assert sorted(tensors) == ["optimizer.list.0", "optimizer.state.0.exp_avg"]
    assert unpack(tensors, plain)["state"][0]["exp_avg"] is tensors["optimizer.state.0.exp_avg"]


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        ({"f": print}, TypeError, r"x\.f is a builtin_function"),
        ({"s": {1, 2}}, TypeError, r"x\.s is a set"),
        ({(1, 2): 3}, TypeError, r"key \(1, 2\)"),
        ({"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}, ValueError, r"both called 'x\.a\.b'"),
    ],
)
def test_what_cannot_be_saved_is_named(state, error, words):
    with pytest.raises(error, match=words):
        pack(state, "x")


@pytest.mark.parametrize("plain", [{"__tensor__": "none"}, {"__module__": "os"}, {"__class__": "x", "a": 1}])
def test_a_foreign_marker_is_refused(plain):
    with pytest.raises(ValueError, match="the saved state"):
        unpack({}, plain)


OPTIMIZERS = [
    lambda p: torch.optim.SGD(p, 0.1),
    lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    lambda p: torch.optim.Adam(p, 0.1, amsgrad=True),
    lambda p: torch.optim.Adam(p, torch.tensor(0.1)),
    lambda p: torch.optim.AdamW(p, 0.1),
    lambda p: torch.optim.RMSprop(p, 0.1, centered=True, momentum=0.9),
    lambda p: torch.optim.Adagrad(p, 0.1),
    lambda p: torch.optim.Adadelta(p, 0.1),
    lambda p: torch.optim.NAdam(p, 0.1),
    lambda p: torch.optim.Rprop(p, 0.1),
    lambda p: torch.optim.Adam([{"params": p[:1], "lr": 0.01}, {"params": p[1:]}], 0.1),
]
SCHEDULERS = [
    lambda o: lr_scheduler.StepLR(o, 2),
    lambda o: lr_scheduler.MultiStepLR(o, [2, 4], 0.5),
    lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=10),
    lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.5)], [3]),
]


def steps(net, optimizer, scheduler, first, last):
    for i in range(first, last):
        torch.manual_seed(i)
        optimizer.zero_grad()
        net(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
        if scheduler:
            scheduler.step()


@pytest.mark.filterwarnings("ignore:The epoch parameter in .scheduler.step")  # SequentialLR's own
@pytest.mark.parametrize(
    ("make_optimizer", "make_scheduler"),
    [(o, None) for o in OPTIMIZERS] + [(OPTIMIZERS[1], s) for s in SCHEDULERS],
)
def test_a_restored_optimizer_goes_on_as_if_nothing_had_happened(make_optimizer, make_scheduler):
    def make():
        torch.manual_seed(0)
        net = nn.Linear(3, 2)
        optimizer = make_optimizer(list(net.parameters()))
        return net, optimizer, make_scheduler(optimizer) if make_scheduler else None

    whole = make()
    steps(*whole, 0, 8)
    first, second = make(), make()
    steps(*first, 0, 5)
    for old, new in zip(first, second, strict=True):
        if old is not None:
            new.load_state_dict(through(old.state_dict()))
    steps(*second, 5, 8)
    for a, b in zip(whole[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(a, b)
