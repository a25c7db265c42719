"""The same bits whatever torch's ambient state: default dtype, default device, deterministic algorithms, grad modes.

Inputs and models are built under the defaults; what runs under a setting must not look at it. The tables are crossed:
every setting with every node, kernel and estimator, in float32 and float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dither
from dither import functional, kernels, nodes, noise, reconstruction

DTYPES = [torch.float32, torch.float64]


# --- settings -------------------------------------------------------------------------------------------------------------
@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


WITH_GRADIENT = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float16": lambda: default_dtype(torch.float16),
    "meta": lambda: default_device("meta"),
    "deterministic": deterministic_algorithms,
}
WITHOUT_GRADIENT = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


def ambient(name: str):
    return (WITH_GRADIENT | WITHOUT_GRADIENT)[name]()


def values_of(result: object) -> list[Tensor]:
    return [t.detach() for t in (result if isinstance(result, (tuple, list)) else [result]) if isinstance(t, Tensor)]


def assert_same(f: Callable[[], object], setting: str) -> None:
    torch.manual_seed(5)
    expected = values_of(f())
    torch.manual_seed(5)
    with ambient(setting):
        got = values_of(f())
    assert len(got) == len(expected) > 0
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype and one.device == other.device
        assert one.shape == other.shape and torch.equal(one.isnan(), other.isnan())
        assert torch.equal(one.nan_to_num(), other.nan_to_num())


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


# --- nodes ----------------------------------------------------------------------------------------------------------------
NODES = {
    "Bernoulli": (dither.Bernoulli, (6, 5)),
    "Bernoulli of other values": (lambda: dither.Bernoulli(values=(-0.3, 1.7)), (6, 5)),
    "Categorical": (dither.Categorical, (6, 5, 3)),
    "NoisyReLU": (dither.NoisyReLU, (6, 5)),
    "NoisyTanh": (lambda: dither.NoisyTanh(before=0.7, after=0.3), (6, 5)),
    "NoisyMaxPool2d": (lambda: dither.NoisyMaxPool2d(2), (3, 2, 4, 4)),
    "StochasticPool2d": (lambda: dither.StochasticPool2d(2), (3, 2, 4, 4)),
}


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16], ids=str)
@pytest.mark.parametrize("setting", [*WITH_GRADIENT, *WITHOUT_GRADIENT])
@pytest.mark.parametrize("name", NODES)
def test_nodes(name, setting, dtype):
    build, shape = NODES[name]
    node, logits, weight = build(), numbers(*shape, dtype=dtype).abs().requires_grad_(), torch.rand(100).to(dtype)

    def f():
        h = node(logits)
        results = [h, node.mean(logits), *([] if not node.discrete else [node.sample_keyed(logits.detach(), key(node))])]
        if setting in WITH_GRADIENT:
            results += torch.autograd.grad((h.flatten() * weight[: h.numel()]).sum(), logits)
        return results

    def key(node):
        seed = torch.tensor(3, dtype=torch.int64, device="cpu")
        return node.keyed(logits, seed, 1, 2)

    assert_same(f, setting)


# --- kernels and functions --------------------------------------------------------------------------------------------------
SEED = torch.tensor(7)
IDS = torch.arange(40)
KEY = (SEED, 3, torch.tensor(2), IDS, False)
PACKED = kernels.pack(numbers(40, 70))
UNIFORM = torch.rand(40, 6, generator=torch.Generator().manual_seed(1))
CALLS: dict[str, Callable[[Tensor], object]] = {
    "uniform": lambda a: kernels.uniform(SEED, 1, KEY[2], IDS, 9, a),
    "normal": lambda a: kernels.normal(SEED, 1, KEY[2], IDS, 9, a),
    "bernoulli": lambda a: kernels.bernoulli(a, KEY),
    "bernoulli with a bias": lambda a: kernels.bernoulli(a, KEY, bias=a[0]),
    "bernoulli_packed": lambda a: kernels.bernoulli_packed(a, KEY),
    "bernoulli_bits": lambda a: kernels.bernoulli_bits(a, KEY, a[0]),
    "categorical": lambda a: kernels.categorical(a, KEY),
    "noisy_relu": lambda a: kernels.noisy_relu(a, KEY, 0.3),
    "noisy_tanh": lambda a: kernels.noisy_tanh(a, KEY, 0.3, 0.7),
    "salt_and_pepper": lambda a: kernels.salt_and_pepper(a, KEY, 0.5, 0.3, 0.7),
    "bernoulli_from_uniform": lambda a: kernels.bernoulli_from_uniform(a, UNIFORM),
    "categorical_from_uniform": lambda a: kernels.categorical_from_uniform(a, UNIFORM),
    "straight_through": lambda a: kernels.straight_through(a, a),
    "pack": kernels.pack,
    "unpack": lambda a: kernels.unpack(PACKED, 70, a.dtype),
    "packed_linear": lambda a: kernels.packed_linear(PACKED, a.repeat(1, 12)[:8, :70], a[0, :1].expand(8)),
    "packed_outer": lambda a: kernels.packed_outer(PACKED, a, 70),
    "packed_score": lambda a: kernels.packed_score(PACKED, a.repeat(1, 12)[:, :70], a[:, :1]),
    "packed_log_prob": lambda a: kernels.packed_log_prob(PACKED, a.repeat(1, 12)[:, :70]),
    "bernoulli_log_prob": lambda a: kernels.bernoulli_log_prob(a, torch.ones_like(a)),
    "noise.uniform": lambda a: noise.uniform(SEED, 1, KEY[2], (40, 6), a),
    "noise.draw_seed": lambda a: noise.draw_seed(),
    "noise.fresh": lambda a: noise.fresh("normal", (40, 6), a.device).draw(a),
    "functional.gumbel_softmax": lambda a: functional.gumbel_softmax(a, UNIFORM),
    "functional.mve": lambda a: functional.mve(a, UNIFORM),
    "functional.reinmax": lambda a: functional.reinmax(a, UNIFORM),
    "functional.gumbel_rao": lambda a: functional.gumbel_rao(a, UNIFORM, UNIFORM.expand(2, 40, 6)),
    "reconstruction.Bernoulli": lambda a: reconstruction.Bernoulli().log_prob(a, torch.ones_like(a)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("setting", [*WITH_GRADIENT, *WITHOUT_GRADIENT])
@pytest.mark.parametrize("name", CALLS)
def test_kernels_and_functions(name, setting, dtype):
    a = numbers(40, 6, dtype=dtype)
    assert_same(lambda: CALLS[name](a), setting)


# --- estimators -------------------------------------------------------------------------------------------------------------
ESTIMATORS: dict[str, Callable[[nn.Module], Callable[..., Tensor]]] = {
    "StraightThrough": dither.StraightThrough,
    "ScoreFunction": lambda m: dither.ScoreFunction(m, baseline="optimal"),
    "ScoreFunction, leave-one-out": lambda m: dither.ScoreFunction(m, baseline="leave-one-out", samples=3),
    "ForwardOnly": dither.ForwardOnly,
    "DisARM": dither.DisARM,
    "ARMS": lambda m: dither.ARMS(m, samples=3),
    "ReinMax": dither.ReinMax,
    "GumbelRao": dither.GumbelRao,
    "REBAR": dither.REBAR,
    "RODEO": dither.RODEO,
    "Blend": dither.Blend,
    "LocalExpectation": dither.LocalExpectation,
    "SPSA": dither.SPSA,
    "Exact": dither.Exact,
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("setting", WITH_GRADIENT)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators(name, setting, dtype):
    """Two calls, so that what was learned in the first is used in the second."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 4), dither.Bernoulli(), nn.Linear(4, 2)).to(dtype)
    x, y = numbers(5, 3, dtype=dtype), torch.arange(5) % 2
    parameters = list(net.parameters())

    def f():
        estimator, results = ESTIMATORS[name](net), []
        for _ in range(2):
            loss = estimator(lambda: F.cross_entropy(net(x), y, reduction="none"))
            results += [loss, *torch.autograd.grad(loss, parameters, allow_unused=True)]
        return results

    assert_same(f, setting)


@pytest.mark.parametrize("setting", WITHOUT_GRADIENT)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_value_without_a_gradient(name, setting):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 4), dither.Bernoulli(), nn.Linear(4, 2))
    x, y = numbers(5, 3), torch.arange(5) % 2
    estimator = ESTIMATORS[name](net)

    def value():
        with torch.no_grad():
            return estimator(lambda: F.cross_entropy(net(x), y, reduction="none"))

    assert_same(value, setting)


# --- the ends of the number line ----------------------------------------------------------------------------------------------
INF, NAN = torch.inf, torch.nan
FORBIDDING = {
    "one": [[-INF, 0.3, 1.0], [0.2, 0.1, 0.0]],
    "all but one": [[-INF, 0.3, -INF], [0.2, -INF, -INF]],
    "certain": [[INF, 0.3, -INF], [0.2, 0.1, INF]],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", FORBIDDING)
@pytest.mark.parametrize("name", ["Exact", "StraightThrough", "ScoreFunction", "ReinMax", "GumbelRao", "LocalExpectation"])
@pytest.mark.parametrize("node", [dither.Categorical, dither.Bernoulli])
def test_infinite_logits_give_finite_gradients(node, name, rows, dtype):
    logits = torch.tensor(FORBIDDING[rows], dtype=dtype, requires_grad=True)
    layer, target = nn.ModuleList([node(), nn.Linear(3, 2)]).to(dtype), torch.tensor([0, 1])
    loss = ESTIMATORS[name](layer)(lambda: F.cross_entropy(layer[1](layer[0](logits)), target, reduction="none"))
    for gradient in torch.autograd.grad(loss, [logits, *layer.parameters()], allow_unused=True):
        assert gradient is None or gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16, torch.float16], ids=str)
def test_a_unit_needs_a_possible_category(dtype):
    logits = torch.tensor([[0.0, -INF], [-INF, -INF]], dtype=dtype)
    with pytest.raises(ValueError, match="logits are -inf for all 2 categories of 1 of 2 units, first of number 1"):
        dither.Categorical()(logits)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_categories_from_uniforms_at_the_ends(dtype):
    rows = torch.tensor([[INF, INF, 0], [NAN, 0, 0], [INF, NAN, 0], [-INF, -INF, -INF], [0, INF, -INF]], dtype=dtype)
    u = torch.tensor([0.1, 0.9, 0.999]).expand(5, 3)
    hard = kernels.categorical_from_uniform(rows, u)
    assert hard[0].tolist() == [1, 0, 0] and hard[4].tolist() == [0, 1, 0]
    assert hard[1:4].isnan().all()
    assert kernels.categorical_from_uniform(rows[:1].float(), u[:1].to(dtype)).tolist() == [[1, 0, 0]]


def test_the_tables_have_every_node():
    every = {c for c in vars(nodes).values() if isinstance(c, type) and issubclass(c, nodes.Node) and c is not nodes.Node}
    assert {c.__name__ for c in every} == {name.split()[0] for name in NODES}
