"""`torch.func.vmap(..., randomness=...)` is obeyed by whatever draws noise: sources x places of the vmap x flags."""

import math

import pytest
import torch
import torch._dynamo
from torch import nn

import dither
from dither import corruption, reconstruction

FLAGS = ("error", "same", "different")
UNITS = (4, 24)
IMAGE = (2, 2, 8, 8)
SOURCES = {
    "Bernoulli": (dither.Bernoulli(), UNITS),
    "Bernoulli, signs": (dither.Bernoulli(values=(-1, 1)), UNITS),
    "Bernoulli, own sampler": (dither.Bernoulli(sampler=lambda a, u: (u < torch.sigmoid(a)).to(a.dtype)), UNITS),
    "Categorical": (dither.Categorical(), (4, 8, 3)),
    "NoisyReLU": (dither.NoisyReLU(), UNITS),
    "NoisyTanh": (dither.NoisyTanh(), UNITS),
    "NoisyTanh, both": (dither.NoisyTanh(before=1.0, after=1.0), UNITS),
    "NoisyMaxPool2d": (dither.NoisyMaxPool2d(2), IMAGE),
    "StochasticPool2d": (dither.StochasticPool2d(2), IMAGE),
    "SaltAndPepper": (corruption.SaltAndPepper(), UNITS),
    "Masking": (corruption.Masking(), UNITS),
    "Gaussian corruption": (corruption.Gaussian(), UNITS),
    "Resampling": (corruption.Resampling(0.9), UNITS),
    "Bernoulli reconstruction": (reconstruction.Bernoulli().sample, UNITS),
    "Gaussian reconstruction": (reconstruction.Gaussian().sample, UNITS),
    "Categorical reconstruction": (reconstruction.Categorical(3).sample, UNITS),
}
SLICES = 3


def slices(source, x, flag):
    return torch.func.vmap(source, randomness=flag)(x.expand(SLICES, *x.shape))


def of_one_input(source, x, flag):
    """Nothing that the source sees is batched."""
    return torch.func.vmap(lambda _: source(x), randomness=flag)(torch.zeros(SLICES))


def last_dimension(source, x, flag):
    return torch.func.vmap(source, -1, -1, randomness=flag)(x.unsqueeze(-1).expand(*x.shape, SLICES)).movedim(-1, 0)


def innermost(source, x, flag):
    return torch.func.vmap(torch.func.vmap(source, randomness=flag), randomness="same")(x.expand(2, SLICES, *x.shape))[0]


def outermost(source, x, flag):
    same = torch.func.vmap(source, randomness="same")
    return torch.func.vmap(same, randomness=flag)(x.expand(SLICES, 2, *x.shape))[:, 0]


def inside_grad(source, x, flag):
    return torch.func.grad_and_value(lambda x: ((y := slices(source, x, flag)).sum(), y), has_aux=True)(x)[1][1]


def around_grad(source, x, flag):
    f = torch.func.grad(lambda x: ((y := source(x)).sum(), y), has_aux=True)
    return torch.func.vmap(f, randomness=flag)(x.expand(SLICES, *x.shape))[1]


def compiled_inside(source, x, flag):
    return slices(torch.compile(source, backend="eager"), x, flag)


def compiled_around(source, x, flag):
    torch._dynamo.reset()
    return torch.compile(lambda x: slices(source, x, flag), backend="aot_eager")(x)


PLACES = [slices, of_one_input, last_dimension, innermost, outermost, inside_grad, around_grad, compiled_inside]


def check(source, place, flag, error: type[Exception] = RuntimeError):
    module, shape = SOURCES[source]
    x = torch.linspace(0.1, 0.9, math.prod(shape)).view(shape)
    if flag == "error":
        with pytest.raises(error, match="randomness='different'"):
            place(module, x, flag)
        return
    samples = place(module, x, flag)
    assert samples.shape[0] == SLICES
    assert len({tuple(s.detach().flatten().tolist()) for s in samples}) == (1 if flag == "same" else SLICES)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's own, of pooling windows
@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
@pytest.mark.parametrize("source", SOURCES)
def test_the_flag_is_obeyed(source, place, flag):
    check(source, place, flag)


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("source", ["Bernoulli", "Categorical", "NoisyReLU", "NoisyTanh", "Masking", "Gaussian corruption"])
def test_compiled_code_around_the_vmap_obeys_it(source, flag):
    check(source, compiled_around, flag, torch._dynamo.exc.TorchRuntimeError)


def test_what_draws_no_noise_needs_no_flag():
    x = torch.zeros(3, *UNITS)
    with dither.deterministic("mean"):
        assert torch.equal(torch.func.vmap(dither.Bernoulli())(x), torch.full_like(x, 0.5))


def test_an_estimator_needs_no_flag():
    net = nn.Sequential(nn.Linear(3, 2), dither.Bernoulli())
    loss = dither.ScoreFunction(net, baseline="leave-one-out", samples=4)(lambda: net(torch.ones(5, 3)).sum(-1))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
