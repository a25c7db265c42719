"""A state goes by the names of nodes: wrappers' prefixes are understood, other models' nodes are an error."""

import re
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import nn

from dither.estimators.control_variates.scales import Scales
from dither.estimators.core.baselines.learned import Learned
from dither.estimators.core.baselines.moving import Moving, Optimal, RunningMean
from dither.estimators.core.baselines.windows import MovingAverages

NODES = ("encoder.1", "encoder.3")
# What a model that was saved may have called them.
PREFIXES = ("", "_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "_fsdp_wrapped_module.")
KINDS: dict[str, Callable[[], Moving | Scales]] = {
    "mean": lambda: RunningMean(0.9),
    "optimal": lambda: Optimal(0.9),
    "scales": lambda: Scales(0.9),
}


def state_of(kind: str, names: list[str]) -> dict[str, torch.Tensor]:
    saved = KINDS[kind]()
    saved.averages = {name: torch.tensor([float(i), 1.0]) for i, name in enumerate(names)}
    return saved.state_dict()


def named(moving: MovingAverages, nodes: tuple[str, ...]) -> None:
    moving.nodes = nodes


@pytest.mark.parametrize("call", ["", ":1"])
@pytest.mark.parametrize(("kind", "prefix", "wrapped"), list(product(KINDS, PREFIXES, ["", "module."])))
def test_wrappers_are_understood(kind: str, prefix: str, wrapped: str, call: str) -> None:
    loaded = KINDS[kind]()
    named(loaded, tuple(wrapped + node for node in NODES))
    loaded.load_state_dict(state_of(kind, [prefix + node + call for node in NODES]))
    assert {name: float(pair[0]) for name, pair in loaded.averages.items()} == {
        f"{wrapped}{node}{call}": float(i) for i, node in enumerate(NODES)
    }


@pytest.mark.parametrize("name", ["decoder.1", "1", "encoder", "encoder.1.x", "modules.encoder.1"])
@pytest.mark.parametrize("kind", KINDS)
def test_another_models_nodes_are_an_error(kind: str, name: str) -> None:
    loaded = KINDS[kind]()
    named(loaded, NODES)
    before = loaded.averages = {"encoder.1": torch.ones(2)}
    with pytest.raises(ValueError, match=rf"(?s)Unexpected.*{re.escape(name)}.*the model are encoder\.1, encoder\.3"):
        loaded.load_state_dict(state_of(kind, ["encoder.1", "encoder.3", name]))
    assert loaded.averages is before
    loaded.load_state_dict(state_of(kind, ["encoder.1", "encoder.3", name]), strict=False)
    assert loaded.averages.keys() == set(NODES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_node_is_an_error_and_one_that_was_not_called_is_none(kind: str) -> None:
    loaded = KINDS[kind]()
    named(loaded, NODES)
    with pytest.raises(ValueError, match=r"(?s)Missing.*encoder\.3.*the model are encoder\.1, encoder\.3"):
        loaded.load_state_dict(state_of(kind, ["encoder.1"]))
    assert loaded.averages == {}
    loaded.load_state_dict(state_of(kind, ["encoder.1"]), strict=False)
    again = KINDS[kind]()
    named(again, NODES)
    again.load_state_dict(loaded.state_dict())  # which says that nothing is known of the other
    assert torch.equal(again.averages["encoder.1"], loaded.averages["encoder.1"])
    again.load_state_dict({})
    assert again.averages == {}


def test_a_learned_baseline_says_what_is_missing() -> None:
    baseline = Learned(nn.Linear(2, 1))
    with pytest.raises((ValueError, RuntimeError), match=r"Missing key"):
        baseline.load_state_dict({"weight": torch.zeros(1, 2)})
