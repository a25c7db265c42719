"""What a node is to its user: shapes, the deterministic switch, errors, names, copies."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import dither
from dither.nodes import named_nodes, taken_over

INF, NAN = float("inf"), float("nan")
NODES = [
    dither.Bernoulli(),
    dither.Bernoulli(values=(-1, 1)),
    dither.Categorical(),
    dither.NoisyReLU(),
    dither.NoisyTanh(before=0.3, after=0.3),
    dither.NoisyMaxPool2d(2),
    dither.StochasticPool2d(2),
]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
each_node = pytest.mark.parametrize("node", NODES, ids=repr)


def logits_for(node, dtype=torch.float32):
    shape = (3, 2, 4, 6) if "Pool" in type(node).__name__ else (3, 2, 5)
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    return logits.abs() if "Pool" in type(node).__name__ else logits


# --- outputs ------------------------------------------------------------------------------------------------------------
@each_node
@pytest.mark.parametrize("dtype", DTYPES)
def test_shape_and_dtype(node, dtype):
    logits = logits_for(node, dtype).requires_grad_()
    shape = (3, 2, 2, 3) if "Pool" in type(node).__name__ else logits.shape
    for kind in (None, "mean", "mode"):
        if kind is None:
            output = node(logits)
        else:
            with dither.deterministic(kind):
                output = node(logits)
        assert output.shape == shape and output.dtype == dtype, kind
        if output.requires_grad:
            assert torch.autograd.grad(output.sum(), logits)[0].dtype == dtype


def test_values_of_discrete_nodes():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(2))
    assert dither.Bernoulli()(logits).unique().tolist() == [0, 1]
    assert dither.Bernoulli(values=(-1, 1))(logits).unique().tolist() == [-1, 1]
    assert dither.Categorical()(logits).sum(-1).eq(1).all()
    assert dither.Categorical()(logits).unique().tolist() == [0, 1]


def test_gradients_follow_the_values():
    logits = torch.randn(4, 3).requires_grad_()
    h = dither.Bernoulli(values=(-1, 1))(logits)
    p = torch.sigmoid(logits.detach())
    torch.testing.assert_close(torch.autograd.grad(h.sum(), logits)[0], 2 * p * (1 - p))


def test_a_sampler_of_the_users_own():
    node = dither.Bernoulli(sampler=dither.functional.bernoulli_straight_through)
    logits = torch.randn(4, 3).requires_grad_()
    assert torch.autograd.grad(node(logits).sum(), logits)[0].eq(1).all()


@each_node
def test_no_state_and_copies(node):
    assert node.state_dict() == {} and not list(node.parameters())
    twin = copy.deepcopy(node)
    logits = logits_for(node)
    torch.manual_seed(4)
    expected = node(logits)
    torch.manual_seed(4)
    assert torch.equal(twin(logits), expected) and repr(twin) == repr(node)


# --- deterministic ------------------------------------------------------------------------------------------------------
def test_means_and_modes():
    a = torch.tensor([[0.0, 1.0, -INF, INF, 1e-30]])
    with dither.deterministic("mean"):
        torch.testing.assert_close(dither.Bernoulli(values=(-1, 1))(a), torch.tanh(a / 2))
        assert dither.Categorical()(torch.tensor([[0.0, 0, -INF]])).tolist() == [[0.5, 0.5, 0]]
        assert torch.equal(dither.NoisyTanh(before=0.1, after=0.1)(a), torch.tanh(a))
    with dither.deterministic("mode"):
        assert dither.Bernoulli()(a).tolist() == [[0, 1, 0, 1, 1]]
        assert dither.Categorical()(torch.tensor([[1.0, 1.0, 0.0], [0, INF, INF]])).tolist() == [[1, 0, 0], [0, 1, 0]]
        assert dither.NoisyReLU()(a).tolist() == [[0, 1, 0, INF, pytest.approx(1e-30)]]


@pytest.mark.parametrize("kind", ["mean", "mode"])
@pytest.mark.parametrize("node", [n for n in NODES if type(n) is not dither.NoisyReLU], ids=repr)
def test_deterministic_is_the_same_each_time_and_needs_no_generator(node, kind):
    logits, before = logits_for(node), torch.get_rng_state()
    with dither.deterministic(kind):
        assert torch.equal(node(logits), node(logits))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("node", [dither.Bernoulli(), dither.Bernoulli(values=(-1, 1)), dither.Categorical()], ids=repr)
def test_modes_keep_nan(node):
    # In a forward pass the node refuses NaN; under compile and vmap it cannot look, and the output must tell.
    logits = torch.tensor([[NAN, 1.0], [0.0, 1.0]])
    assert node.mode(logits)[0, 0].isnan() and node.mean(logits)[0, 0].isnan() and node.mode(logits)[1].isfinite().all()


def test_deterministic_nests_and_is_restored_on_error():
    node, logits = dither.Bernoulli(), torch.full((1, 200), 0.1)
    with dither.deterministic("mean"):
        with pytest.raises(KeyError), dither.deterministic("mode"):
            assert node(logits).eq(1).all()
            raise KeyError
        torch.testing.assert_close(node(logits), torch.sigmoid(logits))
    assert node(logits).unique().tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["sample", None, "Mean"])
def test_deterministic_refuses_other_kinds(kind):
    with pytest.raises(ValueError, match='must be "mean" or "mode"'), dither.deterministic(kind):
        pass
    assert dither.Bernoulli()(torch.zeros(1, 200)).unique().tolist() == [0, 1]


# --- bad input ----------------------------------------------------------------------------------------------------------
@each_node
def test_nan_is_refused(node):
    logits = logits_for(node)
    logits.view(-1)[3] = NAN
    with pytest.raises(ValueError, match=r"1 of \d+ logits are NaN.*lower the learning rate"):
        node(logits)


@pytest.mark.parametrize("node", NODES[:5], ids=repr)
def test_infinite_logits_are_legal(node):
    output = node(torch.tensor([[INF, -INF, -INF]]))
    assert not output.isnan().any()


@each_node
def test_integers_are_refused(node):
    with pytest.raises(TypeError, match=r"got torch.int64; convert with logits.float\(\)"):
        node(logits_for(node).long())


@each_node
@pytest.mark.parametrize("other", [[0.5, 0.5], 0.5, None])
def test_what_is_no_tensor_is_refused(node, other):
    with pytest.raises(TypeError, match="must be a floating-point tensor"):
        node(other)


@pytest.mark.parametrize("node", [n for n in NODES[:5] if type(n) is not dither.Categorical], ids=repr)
def test_a_scalar_is_refused(node):
    with pytest.raises(ValueError, match=r"first dimension must be the batch; use logits.reshape\(1, 1\)"):
        node(torch.tensor(0.0))


@each_node
def test_an_empty_batch_gives_no_samples(node):
    full = logits_for(node)
    logits = full[:0].detach().requires_grad_()
    h = node(logits)
    assert h.shape == (0, *node(full).shape[1:]) and h.dtype == full.dtype
    if h.requires_grad:
        h.sum().backward()
        assert logits.grad is not None and logits.grad.shape == logits.shape
    for kind in ("mean", "mode"):
        with dither.deterministic(kind):
            assert node(logits).shape == h.shape


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 4, 1)])
def test_a_categorical_needs_categories(shape):
    with pytest.raises(ValueError, match="at least two categories is needed"):
        dither.Categorical()(torch.zeros(shape))


@pytest.mark.parametrize("values", [(1, 1), (0, 1, 2), (0,)])
def test_values_that_say_nothing_are_refused(values):
    with pytest.raises(ValueError, match="two different outputs"):
        dither.Bernoulli(values=values)


@pytest.mark.parametrize("bad", [-1.0, INF, NAN])
def test_scales_are_checked(bad):
    for build, remedy in (
        (lambda: dither.NoisyReLU(scale=bad), "use torch.nn.ReLU"),
        (lambda: dither.NoisyMaxPool2d(2, scale=bad), "use torch.nn.MaxPool2d"),
        (lambda: dither.NoisyTanh(before=bad), "finite and not negative"),
        (lambda: dither.NoisyTanh(after=bad), "finite and not negative"),
    ):
        with pytest.raises(ValueError, match=remedy):
            build()


# --- taking nodes over, and naming them ---------------------------------------------------------------------------------
def test_taken_over_is_undone_on_error():
    node, inner = dither.Bernoulli(), dither.NoisyReLU()
    x = torch.full((2, 3), 7.0)
    with pytest.raises(KeyError), taken_over([node, inner, node], handler=lambda node, logits: logits + 1):
        assert node(x).eq(8).all() and inner(x).eq(8).all()
        with taken_over([node], handler=lambda node, logits: logits - 1, source=lambda *_: torch.zeros(2, 3)):
            assert node(x).eq(6).all() and inner(x).eq(8).all()
        assert node(x).eq(8).all() and node._source is None
        raise KeyError
    assert node._handler is None and inner._handler is None and node(x).max() <= 1


def test_a_source_replaces_the_noise():
    node = dither.Bernoulli()
    with taken_over([node], source=lambda node, logits: torch.tensor([[0.1, 0.9]])):
        assert node(torch.zeros(1, 2)).tolist() == [[1, 0]]


def model():
    gate = dither.Bernoulli()
    return nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 2), gate), "b": dither.Categorical(), "c": nn.Sequential(gate)})


def test_names():
    net = model()
    assert list(named_nodes(net)) == ["a.1", "b"], "a shared module has its first name"
    assert named_nodes(net)["a.1"] is net["a"][1]
    assert list(named_nodes(net["b"])) == ["node"]
    assert named_nodes(nn.Linear(2, 2)) == {}


# torch compiles some of its own functions by a way that it has deprecated
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_names_do_not_change_when_a_model_is_wrapped(tmp_path):
    net = model()
    compiled = torch.compile(net)
    assert list(named_nodes(compiled)) == ["a.1", "b"]
    inside = model()
    inside["a"] = torch.compile(inside["a"])
    assert list(named_nodes(inside)) == ["a.1", "b"]
    assert list(named_nodes(torch.compile(dither.Bernoulli()))) == ["node"]
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel
        for wrapped in (parallel(net), torch.compile(parallel(net)), parallel(torch.compile(net))):
            assert list(named_nodes(wrapped)) == ["a.1", "b"]
        parts = nn.ModuleList([torch.compile(parallel(checkpoint_wrapper(net))), nn.ModuleDict({"module": model()})])
        assert list(named_nodes(parallel(parts))) == ["0.a.1", "0.b", "1.module.a.1", "1.module.b"], "its own stays"
    finally:
        torch.distributed.destroy_process_group()
