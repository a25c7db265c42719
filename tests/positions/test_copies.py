"""What an estimator has belongs to it alone: copies, pickles, saved states and modules that hold it go on as it would."""

import copy
import gc
import inspect
import pickle
import runpy
import types
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import dither
from dither import estimators
from dither.estimators.core.baselines.node_state import NodeState

WORKER = Path(__file__).parent / "copies_worker.py"
WORK = types.SimpleNamespace(**runpy.run_path(str(WORKER)))
CLASSES = [c for c in vars(estimators).values() if isinstance(c, type) and issubclass(c, dither.Estimator)]
two = {"straight-through": dither.StraightThrough, "scores": partial(dither.ScoreFunction, baseline="mean")}
ROWS: dict[str, Callable[[nn.Module], dither.Estimator]] = {
    name: build for c in CLASSES if not inspect.isabstract(c) for name, build in c.configurations().items()
} | {
    "learned": lambda net: dither.ScoreFunction(net, baseline=WORK.own_baseline(0).to(next(net.parameters())), samples=2),
    "NVIL, lazy": dither.NVIL,
    "RELAX, two samples": partial(dither.RELAX, hidden=2, samples=2),
    "RODEO, loop": partial(dither.RODEO, samples=3, vectorize=False),
    "PathSampleAnalytic": dither.PathSampleAnalytic,
    "UnorderedSet": dither.UnorderedSet,
    "SPSA": dither.SPSA,
    "FiniteDifference": dither.FiniteDifference,
    "PerNode, NVIL": lambda net: dither.PerNode(net, {"nodes.0": dither.NVIL, "*": two["scores"]}),
    "Auto": partial(dither.Auto, candidates=two, by="evaluations", draws=2),
}

# Those of one configuration each of every class; the rest with --long.
SAMPLE = {name.partition("-")[0]: name for name in reversed(ROWS)}.values()
every_estimator = pytest.mark.parametrize(
    "name", [name if name in SAMPLE else pytest.param(name, marks=pytest.mark.long) for name in ROWS]
)


def pair(name: str, dtype: torch.dtype = torch.float64) -> tuple[dither.Estimator, nn.Module]:
    """The estimator, not called yet, and a net that it takes."""
    for net in (WORK.chain(dtype), WORK.one_code(dtype)):
        try:
            return ROWS[name](net), net
        except TypeError:  # of other nodes
            continue
    raise AssertionError(f"no net for {name}")


def used(name: str, dtype: torch.dtype = torch.float64) -> tuple[dither.Estimator, nn.Module]:
    """The same after two steps of an optimizer, and one that failed."""
    estimator, net = pair(name, dtype)
    torch.manual_seed(1)
    for _ in range(2):
        estimator(lambda: WORK.cost(net)).backward()
        parameters = {p: None for p in (*net.parameters(), *estimator.parameters()) if p.grad is not None}
        torch.optim.SGD(list(parameters), 0.1).step()
        torch.optim.SGD(list(parameters), 0.1).zero_grad()

    def fails() -> Tensor:
        WORK.cost(net)
        raise MemoryError

    with pytest.raises(MemoryError):
        estimator(fails)
    return estimator, net


def equal(ours: list[Tensor | None], theirs: list[Tensor | None]) -> bool:
    return len(ours) == len(theirs) and all(
        a is b is None or (a is not None and b is not None and torch.equal(a, b)) for a, b in zip(ours, theirs, strict=True)
    )


# --- copies -----------------------------------------------------------------------------------------------------------
@every_estimator
def test_copies_go_on_as_the_original(name: str) -> None:
    estimator, net = used(name)
    alone = [copy.deepcopy(estimator), pickle.loads(pickle.dumps(estimator))]
    together = [copy.deepcopy((estimator, net)), pickle.loads(pickle.dumps((estimator, net)))]
    shallow, after = copy.copy(estimator), copy.deepcopy((estimator, net))
    expected = WORK.step(estimator, net)
    for ours, its_net in [*together, *((ours, ours.model) for ours in alone)]:
        assert ours.model is its_net is not net and set(ours.nodes.values()) <= set(its_net.modules())
        assert equal(WORK.step(ours, its_net), expected)
        assert equal(list(ours.state_dict().values()), list(estimator.state_dict().values()))
    with pytest.raises((RuntimeError, ValueError), match=r"cover|none of the nodes"):
        alone[0](lambda: WORK.cost(net))  # it has a net of its own, as a copied optimizer has
    WORK.step(*after)
    assert shallow.model is net and equal(WORK.step(shallow, net, 4), WORK.step(*after, 4))  # has learned what both have


# --- states, and modules that hold an estimator -------------------------------------------------------------------------
@every_estimator
def test_a_state_is_all_that_it_takes(name: str) -> None:
    estimator, net = used(name)
    state = {key: tensor.clone() for key, tensor in estimator.state_dict().items()}
    expected = WORK.step(estimator, net)
    fresh, _ = pair(name)
    other = copy.deepcopy((fresh, fresh.model))
    other[1].load_state_dict(net.state_dict())
    other[0].load_state_dict(state)
    assert equal(WORK.step(*other), expected)
    if state:  # strict, both ways, and then as before
        for wrong in (state | {"unknown.node": torch.zeros(2)}, dict(list(state.items())[1:])):
            before = [tensor.clone() for tensor in estimator.state_dict().values()]
            with pytest.raises(ValueError, match=r"Missing key|Unexpected key|the state of"):
                estimator.load_state_dict(wrong)
            assert equal(before, list(estimator.state_dict().values()))


class Held(nn.Module):
    def __init__(self, name: str, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.estimator, self.net = used(name, dtype)


@every_estimator
def test_a_module_that_holds_one_lists_saves_and_moves_it(name: str) -> None:
    held = Held(name)
    names = {n for n, _ in held.named_parameters()}
    own = {f"estimator.{n}" for n, _ in held.estimator.named_parameters()}
    assert names == own | {f"net.{n}" for n, _ in held.net.named_parameters()}
    state = held.state_dict()
    assert (
        names
        <= state.keys()
        == {f"net.{n}" for n in held.net.state_dict()} | {f"estimator.{n}" for n in held.estimator.state_dict()}
    )
    other = Held(name)
    WORK.step(other.estimator, other.net, 9)  # which has learned something else
    other.load_state_dict(state)
    assert equal(WORK.step(other.estimator, other.net), WORK.step(held.estimator, held.net))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        other.load_state_dict(state | {"estimator.unknown.node": torch.zeros(2)})
    held.estimator.eval()
    assert held.net.training and not any(part.training for part in held.estimator.modules())
    both = copy.deepcopy(held)
    assert both.estimator.model is both.net


@every_estimator
def test_it_moves_with_the_module_that_holds_it(name: str) -> None:
    held = Held(name, torch.float32)
    before = {key: tensor.clone() for key, tensor in held.state_dict().items()}
    held.to(torch.float64)
    after = held.state_dict()
    counts = ("calls", "rows", "choice", "account")
    for key, tensor in before.items():
        assert after[key].dtype == (tensor.dtype if key.endswith(counts) else torch.float64), key
        assert torch.equal(after[key].to(tensor), tensor), key
    loss, *gradients = WORK.step(held.estimator, held.net)
    assert loss.dtype == torch.float64 and all(g is None or g.dtype == torch.float64 for g in gradients)
    held.to(torch.bfloat16)  # averages would stand still in it
    learned = [t for part in states(held.estimator) for t in tensors_in(vars(part), tuple(held.net.parameters()))]
    assert all(tensor.dtype == torch.float64 for tensor in learned)
    if not isinstance(held.estimator, dither.FiniteDifference):
        assert torch.isfinite(WORK.step(held.estimator, held.net)[0])


def states(estimator: nn.Module) -> list[NodeState]:
    return [part for part in estimator.modules() if isinstance(part, NodeState)]


# --- what it may keep -------------------------------------------------------------------------------------------------
def tensors_in(root: object, leave: tuple[object, ...] = ()) -> list[Tensor]:
    """All tensors that can be reached from an object, but not through classes, functions' code and what is left out."""
    tensors, todo, seen = [], [root], {id(part) for part in leave}
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, (type, types.ModuleType, types.FunctionType, types.CodeType, torch.dtype)):
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            tensors.append(thing)
            continue
        if isinstance(thing, dict):
            assert not any(isinstance(key, int) and key > 1 << 16 for key in thing), "keyed by an id"
        todo += gc.get_referents(thing)
    return tensors


@pytest.mark.parametrize("fails", [None, MemoryError, KeyError], ids=["call", "failed call", "failed vmap"])
@every_estimator
def test_nothing_of_a_finished_call_is_kept(name: str, fails: type[Exception] | None) -> None:
    estimator, net = used(name)
    alive: list[weakref.ref[Tensor]] = []

    def closure() -> Tensor:
        logits = net.linears[0](WORK.X.clone()) if hasattr(net, "linears") else net[0](WORK.X.clone())
        costs = WORK.cost(net) + logits.sum()
        alive.extend(map(weakref.ref, (logits, costs)))
        if fails:
            raise MemoryError
        return costs

    try:
        loss = estimator(closure)
        alive.append(weakref.ref(loss))
        del loss
    except (MemoryError, KeyError):
        pass
    assert alive and not any(reference() is not None for reference in alive)
    reached = tensors_in(vars(estimator), tuple(net.modules()))
    learned = {id(t) for part in states(estimator) for t in tensors_in(vars(part), tuple(net.modules()))}
    learned |= {id(p) for p in (*net.parameters(), *estimator.parameters(), *estimator.buffers())}
    learned |= {id(p.grad) for p in (*net.parameters(), *estimator.parameters())}
    influences = [t for t in reached if id(t) not in learned]
    assert all(t.dtype == torch.bool for t in influences), influences
    assert all(t.grad_fn is None for t in reached)


# --- another process, and ranks -----------------------------------------------------------------------------------------
def elsewhere(
    two_ranks, folder: Path, sent: dict[str, tuple[dither.Estimator, nn.Module]]
) -> tuple[dict[str, list], list[dict]]:
    """(the next step of each in a process that it was sent to; gradients and states on two ranks)."""
    (folder / "sent").write_bytes(pickle.dumps(sent))
    with two_ranks(WORKER, folder, timeout=200):
        pass
    return pickle.loads((folder / "steps").read_bytes()), [torch.load(folder / f"rank{rank}") for rank in range(2)]


def test_they_go_on_in_another_process_and_ranks_whose_module_holds_one_are_one_process(
    tmp_path: Path, request: pytest.FixtureRequest, two_ranks
) -> None:
    sent = {name: used(name) for name in (ROWS if request.config.getoption("--long") else SAMPLE)}
    steps, ranks = elsewhere(two_ranks, tmp_path, sent)
    assert [name for name in sent if not equal(steps[name], WORK.step(*sent[name]))] == []
    for name in WORK.ESTIMATORS:
        alone = WORK.train(name, 0, 1)
        assert any(tensor.any() for key, tensor in alone.items() if key.endswith(".grad") and "|estimator." in key), name
        for of_rank in ranks:
            assert alone.keys() == {key for key in of_rank if key.startswith(f"{name}|")}
            for key, tensor in alone.items():
                torch.testing.assert_close(of_rank[key], tensor, rtol=1e-10, atol=1e-12, msg=lambda m, key=key: f"{key}: {m}")
