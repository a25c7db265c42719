"""Models in every floating-point dtype: they walk, train and sample in the dtype of the data, and forget nothing of it."""

import pytest
import torch
from torch import nn

import dither
from dither import chains, corruption, nodes, reconstruction
from dither.models.any_conditional import AnyConditional
from dither.models.dae import DAE, Geometric
from dither.models.gsn import GSN, Conv2d
from dither.models.mlp import StochasticMLP
from dither.models.vae import BinaryVAE, CategoricalVAE

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
UNITS = 16
FAMILIES = {
    "Bernoulli": lambda: reconstruction.Bernoulli(),
    "Gaussian": lambda: reconstruction.Gaussian(0.3),
    "Gaussian, learned scale": lambda: reconstruction.Gaussian(None),
    "Categorical": lambda: reconstruction.Categorical(2),
    "Mixture": lambda: reconstruction.Mixture(reconstruction.Bernoulli(), 3),
    "Joint": lambda: reconstruction.Joint([(reconstruction.Bernoulli(), 8), (reconstruction.Gaussian(), 8)]),
    "MADE": lambda: reconstruction.MADE(UNITS, (12,), context=10),
}
CORRUPTIONS = {
    "salt and pepper": lambda: corruption.SaltAndPepper(),
    "masking": lambda: corruption.Masking(),
    "gaussian": lambda: corruption.Gaussian(0.3),
    "resampling": lambda: corruption.Resampling(0.5, 2),
    "mixture": lambda: corruption.Mixture([corruption.Masking(), corruption.Gaussian()]),
}
HIDDEN = {
    "default": lambda: None,
    "Bernoulli": lambda: [nodes.Bernoulli(), nodes.Bernoulli()],
    "NoisyReLU": lambda: [nodes.NoisyReLU(), nodes.NoisyTanh()],
}


def dae(family="Bernoulli", corrupt="salt and pepper", steps=3, through=False):
    family = FAMILIES[family]()
    network = nn.Linear(UNITS, family.outputs(UNITS))
    return DAE(network, UNITS, corruption=CORRUPTIONS[corrupt](), reconstruction=family, steps=steps, through_samples=through)


def images():
    return GSN([Conv2d((1, 4, 4), 3, kernel=3)], hidden=[nodes.NoisyTanh()], steps=2)


DENOISERS = {
    **{f"DAE, {family}": lambda family=family: dae(family) for family in FAMILIES},
    **{f"DAE, {name}": lambda name=name: dae(corrupt=name) for name in CORRUPTIONS},
    "DAE, random walk": lambda: dae(steps=Geometric(0.5)),
    "DAE, gradient through samples": lambda: dae(through=True),
    "DAE, gaussian through samples": lambda: dae("Gaussian", "gaussian", through=True),
    **{f"GSN, {name}": lambda make=make: GSN((UNITS, 12, 8), hidden=make()) for name, make in HIDDEN.items()},
    "GSN, random walk": lambda: GSN((UNITS, 12, 8), steps=Geometric(0.5)),
    "GSN, Gaussian": lambda: GSN((UNITS, 12), reconstruction=reconstruction.Gaussian()),
    "GSN, untied Mixture": lambda: GSN((UNITS, 12), reconstruction=FAMILIES["Mixture"](), tied=False),
    "GSN, images": images,
}
OTHERS = {
    "AnyConditional": lambda: AnyConditional.dense(UNITS, (12,)).cost,
    "AnyConditional, Mixture": lambda: AnyConditional.dense(UNITS, (12,), FAMILIES["Mixture"]()).cost,
    "BinaryVAE": lambda: BinaryVAE((UNITS, 8, 4)).cost,
    "BinaryVAE, learned prior": lambda: BinaryVAE((UNITS, 8, 4), prior="learned", kl="sampled").cost,
    "CategoricalVAE": lambda: CategoricalVAE((UNITS, 8, 6), categories=3).cost,
    "StochasticMLP": lambda: StochasticMLP((UNITS, 8, 4)).forward,
}


def data(dtype):
    """Binary, and one-hot in every two units."""
    bits = torch.randint(2, (6, UNITS // 2), generator=torch.Generator().manual_seed(0))
    return torch.stack((bits, 1 - bits), -1).flatten(1).to(dtype)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def check_gradients(cost, model):
    assert cost.isfinite().all()
    cost.sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients)
    assert any(g.any() for g in gradients)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", DENOISERS)
def test_a_walk_trains(name, dtype):
    model = DENOISERS[name]().to(dtype)
    check_gradients(model.cost(data(dtype)), model)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", DENOISERS)
def test_a_chain_stays_in_the_dtype_of_the_data(name, dtype):
    model, x = DENOISERS[name]().to(dtype), data(dtype)
    samples = chains.run(model, x, steps=3, seed=0)
    assert samples.x.dtype == samples.state.x.dtype == dtype and samples.x.isfinite().all()
    assert samples.mean.dtype == torch.promote_types(dtype, torch.float32)  # as wide as it was computed
    again = chains.run(model, samples.state, steps=2, seed=1)
    assert again.x.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", DENOISERS)
def test_a_clamped_chain_keeps_the_data(name, dtype):
    model, x, clamp = DENOISERS[name]().to(dtype), data(dtype), torch.arange(UNITS) < 6
    samples = chains.run(model, x, steps=2, clamp=clamp, seed=0)
    assert samples.x.dtype == dtype and torch.equal(samples.x[:, :, :6], x[:, :6].expand(2, -1, -1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", [name for name in DENOISERS if "random walk" not in name and "MADE" not in name])
def test_the_cost_is_that_of_float32_up_to_rounding(name, dtype):
    wide = DENOISERS[name]().to(dtype).float()  # the same weights in both, to the last bit
    other = DENOISERS[name]().to(dtype)
    other.load_state_dict(wide.state_dict())
    costs = []
    for model, x in ((wide, data(torch.float32)), (other, data(dtype))):
        torch.manual_seed(1)
        costs.append(model.costs(x)[:, 0].double())  # a later step may start from another sample
    torch.testing.assert_close(*costs, rtol=0.08, atol=0.3)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["DAE, gradient through samples", "GSN, Bernoulli"])
def test_an_estimator_trains_a_walk(name, dtype, samples):
    model, x = DENOISERS[name]().to(dtype), data(dtype)
    estimator = (
        dither.ScoreFunction(model, baseline="leave-one-out", samples=samples) if samples > 1 else dither.StraightThrough(model)
    )
    check_gradients(estimator(lambda: model.costs(x)), model)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OTHERS)
def test_other_models_train(name, dtype):
    cost = OTHERS[name]()
    model = cost.__self__.to(dtype)
    check_gradients(cost(data(dtype)).float(), model)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_any_conditional_model_samples(dtype):
    model, x = AnyConditional.dense(UNITS, (12,)).to(dtype), data(dtype)
    sample = model.sample(x, torch.arange(UNITS) < 4, passes=3)
    assert sample.dtype == dtype and torch.equal(sample[:, :4], x[:, :4])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("learned", ["counts", "kernel density"])
def test_denoisers_without_parameters(learned, dtype):
    states = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=dtype)
    if learned == "counts":
        conditional = chains.Counts(torch.ones(4, 4), states)
    else:
        conditional = chains.KernelConditional(states, states, 0.3, 0.3)
    samples = chains.run(chains.Denoiser(corruption.SaltAndPepper(), conditional), states, steps=3, seed=0)
    assert samples.x.dtype == dtype and samples.x.isfinite().all()
