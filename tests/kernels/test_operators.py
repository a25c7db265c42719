"""The operators as torch sees them: fake tensors, gradients, vmap, compile; and the ways that a call takes to an
implementation."""

import subprocess
import sys

import pytest
import torch

from dither import homeostasis, kernels, nodes, noise
from dither.kernels import _library

# torch compiles some of its own functions by a way that it has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")


def keyed(kind, *shape, seed=3):
    return noise.Keyed(kind, torch.tensor(seed), 1, torch.tensor(2), shape, torch.device("cpu"))


KEY = keyed("uniform", 4, 6).key
A = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
PACKED = kernels.pack((A > 0).float())
W = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
CALLS = {
    "uniform": (torch.ops.dither.uniform, (*KEY[:4], 6, A)),
    "normal": (torch.ops.dither.normal, (*KEY[:4], 6, A)),
    "bernoulli_from_uniform": (torch.ops.dither.bernoulli_from_uniform, (A, torch.rand(4, 6))),
    "categorical_from_uniform": (torch.ops.dither.categorical_from_uniform, (A, torch.rand(4, 6))),
    "straight_through": (torch.ops.dither.straight_through, (A, A, 1.0)),
    "bernoulli": (torch.ops.dither.bernoulli, (A.clone().requires_grad_(), *KEY, "sigmoid")),
    "bernoulli, identity": (torch.ops.dither.bernoulli, (A.clone().requires_grad_(), *KEY, "identity")),
    "categorical": (torch.ops.dither.categorical, (A, *KEY)),
    "noisy_relu": (torch.ops.dither.noisy_relu, (A.clone().requires_grad_(), *KEY, 0.5)),
    "noisy_tanh": (torch.ops.dither.noisy_tanh, (A.clone().requires_grad_(), *KEY, 0.5, 0.2)),
    "salt_and_pepper": (torch.ops.dither.salt_and_pepper, (A, *KEY, 0.4, 0.0, 1.0)),
    "bernoulli_packed": (torch.ops.dither.bernoulli_packed, (A, *KEY)),
    "packed_linear": (torch.ops.dither.packed_linear, (PACKED, W.clone().requires_grad_(), None)),
    "packed_outer": (torch.ops.dither.packed_outer, (PACKED, torch.randn(4, 5), 6)),
}


@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name):
    operator, args = CALLS[name]
    torch.library.opcheck(operator.default, args)


def test_every_operator_is_checked():
    known = {name.split(",")[0] for name in CALLS} | {"draw_seed", "compiled_seed", "count_active"}
    registered = {
        str(name).removeprefix("dither::") for name in torch._C._dispatch_get_all_op_names() if name.startswith("dither::")
    }
    assert registered == known, f"of {nodes.__name__}, {homeostasis.__name__} and kernels"


CONSUMERS = {
    "bernoulli": (lambda a, key: kernels.bernoulli(a, key, "sigmoid"), "uniform", 1),
    "bernoulli, no gradient": (lambda a, key: kernels.bernoulli(a, key), "uniform", 1),
    "categorical": (kernels.categorical, "uniform", 1),
    "noisy_relu": (lambda a, key: kernels.noisy_relu(a, key, 0.5), "normal", 1),
    "noisy_tanh": (lambda a, key: kernels.noisy_tanh(a, key, 0.5, 0.2), "normal", 2),
    "salt_and_pepper": (lambda a, key: kernels.salt_and_pepper(a, key, 0.4), "uniform", 1),
    "bernoulli_packed": (lambda a, key: kernels.bernoulli_packed(a, key)[1], "uniform", 1),
}


@pytest.mark.parametrize("name", CONSUMERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_one_sample_whatever_runs_it(name, dtype):
    """Eager, compiled, in a vmap over samples, in a loop, and in a vmap that is nested: the same numbers."""
    f, kind, _ = CONSUMERS[name]
    a = A.to(dtype)
    key = keyed(kind, 4, 6).key

    def at(sample):
        return f(a, (*key[:2], sample, *key[3:]))

    loop = torch.stack([at(torch.tensor(k)) for k in range(3)])
    assert loop.unique(dim=0).shape[0] > 1
    assert torch.equal(torch.func.vmap(at)(torch.arange(3)), loop)
    nested = torch.func.vmap(torch.func.vmap(at))(torch.arange(3).view(1, 3))
    assert torch.equal(nested[0], loop)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(at, fullgraph=True, backend="aot_eager")(torch.tensor(1)), loop[1])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(at(torch.tensor(2)), loop[2])


@pytest.mark.parametrize("name", ["bernoulli", "noisy_relu", "noisy_tanh"])
def test_gradients_agree_on_every_way(name):
    f, kind, _ = CONSUMERS[name]
    key = keyed(kind, 4, 6).key

    def loss(a):
        return (f(a, key) * torch.arange(24.0).view(4, 6)).sum()

    a = A.clone().requires_grad_()
    (eager,) = torch.autograd.grad(loss(a), a)
    assert eager.abs().sum() > 0
    torch.testing.assert_close(torch.func.grad(loss)(A), eager)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(A.expand(2, 4, 6))[1], eager, rtol=1, atol=1e9)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager_decomp_partition")
    torch.testing.assert_close(torch.autograd.grad(compiled(a), a)[0], eager)
    if name == "bernoulli":
        p = torch.sigmoid(A)
        torch.testing.assert_close(eager, torch.arange(24.0).view(4, 6) * p * (1 - p))


@pytest.mark.parametrize("name", ["bernoulli", "noisy_relu", "noisy_tanh"])
def test_gradients_through_a_vmap_are_those_of_a_loop(name):
    """Over samples, over samples and logits, in two vmaps; and a gradient of torch.func taken outside of the vmap."""
    f, kind, _ = CONSUMERS[name]
    key, weight = keyed(kind, 4, 6).key, torch.arange(72.0).view(3, 4, 6)

    def at(a, sample):
        return f(a, (*key[:2], sample, *key[3:]))

    def total(samples_of):
        a = A.clone().requires_grad_()
        return torch.autograd.grad((samples_of(a) * weight).sum(), a)[0]

    samples, vmap = torch.arange(3), torch.func.vmap
    loop = total(lambda a: torch.stack([at(a, k) for k in samples]))
    torch.testing.assert_close(total(lambda a: vmap(lambda k: at(a, k))(samples)), loop)
    torch.testing.assert_close(total(lambda a: vmap(at)(a.expand(3, 4, 6), samples)), loop)
    torch.testing.assert_close(total(lambda a: vmap(vmap(lambda k: at(a, k)))(samples.view(1, 3))[0]), loop)
    torch.testing.assert_close(torch.func.grad(lambda a: (vmap(lambda k: at(a, k))(samples) * weight).sum())(A), loop)


@pytest.mark.parametrize("name", CONSUMERS)
def test_a_seed_for_each_slice(name):
    f, kind, _ = CONSUMERS[name]
    key, seeds = keyed(kind, 4, 6).key, torch.tensor([5, 3, 5, -1])
    loop = torch.stack([f(A, (seed, *key[1:])) for seed in seeds])
    assert torch.equal(torch.func.vmap(lambda seed: f(A, (seed, *key[1:])))(seeds), loop)
    assert torch.func.vmap(lambda seed: f(A, (seed, *key[1:])))(seeds[:0]).shape == (0, *loop.shape[1:])


@pytest.mark.parametrize("name", CONSUMERS)
def test_strides_and_shapes_of_units_do_not_matter(name):
    f, kind, _ = CONSUMERS[name]
    wide, key = torch.randn(6, 4, 130), keyed(kind, 4, 6).key
    a = wide[..., 3].T
    assert torch.equal(f(a, key), f(a.contiguous(), key))
    if name != "categorical":  # whose last dimension means something
        assert torch.equal(f(A.view(4, 2, 3), key).flatten(1), f(A, key).flatten(1))
    assert f(A[:0], (*key[:3], key[3][:0], key[4])).shape[0] == 0


def test_a_bias_is_added_on_the_way():
    b, wide = torch.linspace(-2, 2, 6), A.repeat(50, 30)
    key = keyed("uniform", 200, 180).key
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        a, bias = wide.to(dtype), b.repeat(30)
        expected = kernels.bernoulli(a.float() + bias if dtype == torch.bfloat16 else a + bias, key).to(dtype)
        if dtype != torch.bfloat16 or _library.LIBRARY is not None:
            assert torch.equal(kernels.bernoulli(a, key, bias=bias), expected)
    assert torch.equal(
        kernels.unpack(kernels.bernoulli_bits(wide, key, b.repeat(30)), 180), kernels.bernoulli(wide + b.repeat(30), key)
    )


def test_a_nan_logit_gives_nan_and_no_other():
    a = A.clone()
    a[1, 2] = torch.nan
    for call in (lambda: kernels.bernoulli(a, KEY), lambda: kernels.bernoulli(a, KEY, bias=torch.zeros(6))):
        assert call().isnan().nonzero().tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("variables", "path", "complaint"),
    [
        ({"DITHER_KERNELS": "torch"}, "torch", ""),
        ({"DITHER_KERNELS": "portable"}, "portable", ""),
        ({"DITHER_KERNELS": "abacus"}, "torch", "no such path; use torch, portable, or leave it unset"),
        ({"DITHER_KERNELS_LIBRARY": "nowhere.so"}, "torch", "the native library cannot be used"),
    ],
)
def test_the_environment_chooses_the_path(variables, path, complaint):
    if _library.LIBRARY is None and path == "portable":
        pytest.skip("the native library is not installed")
    if _library.LIBRARY is None and "abacus" in variables.values():
        pytest.skip("the native library is not installed")
    code = (
        "import torch, dither; from dither import kernels; torch.manual_seed(0)\n"
        "print(kernels.path(), dither.Bernoulli()(torch.zeros(2, 200)).sum(1).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, env=environment(variables), check=True
    )
    torch.manual_seed(0)
    import dither

    assert done.stdout.strip() == f"{path} {dither.Bernoulli()(torch.zeros(2, 200)).sum(1).tolist()}"
    assert complaint in done.stderr and ("RuntimeWarning" in done.stderr) == bool(complaint)


def test_the_library_is_there_where_its_path_is():
    library = kernels.library()
    assert (library is None) == (kernels.path() == "torch")
    assert library is None or library.dither_path().decode() == kernels.path()


def environment(variables):
    import os

    return {k: v for k, v in os.environ.items() if not k.startswith("DITHER_KERNELS")} | variables
