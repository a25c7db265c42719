"""What denoising models share: walks of random length, gradients through samples, refusals, going on from a checkpoint."""

import pytest
import torch
from torch import nn

import dither
from dither import chains, corruption, noise
from dither.models.gsn import GSN, Geometric
from dither.training.loop import fit
from dither.training.run_folder import RunFolder
from small_gsn import random_gsn, random_images


def test_geometric_walks():
    model = random_gsn((5, 4), steps=Geometric(0.5))
    torch.manual_seed(0)
    costs = model.costs(random_images(rows=4000))
    lengths = (costs > 0).sum(1)
    for length in range(1, 6):  # P(length) = 2^-length
        count, p = int((lengths == length).sum()), 2.0**-length
        assert abs(count - 4000 * p) < 5 * (4000 * p * (1 - p)) ** 0.5
    assert all((row[:length] > 0).all() and (row[length:] == 0).all() for row, length in zip(costs, lengths, strict=True))


def test_the_noise_of_a_walk_follows_its_example():
    model, x = random_gsn((5, 4, 3), steps=Geometric(0.7)), random_images(rows=8)
    ids, order = torch.arange(8), torch.tensor([3, 1, 7, 5])

    def costs(rows):
        torch.manual_seed(0)
        with noise.examples(ids[rows]):
            return model.cost(x[rows])

    torch.testing.assert_close(costs(ids)[order], costs(order), rtol=1e-12, atol=0)


@pytest.mark.parametrize("through", [True, False])
def test_whether_the_gradient_flows_through_the_samples(through):
    """With the last step's cost alone, only a gradient through the sample reaches the visible bias of the step before."""
    model = random_gsn((5, 4), hidden=[nn.Tanh()], corruption=corruption.Masking(0.2), steps=2, through_samples=through)
    first = []
    log_prob = model.reconstruction.log_prob
    model.reconstruction.log_prob = lambda outputs, x: first.append(outputs) or log_prob(outputs, x)
    costs = model.costs(random_images())
    (gradient,) = torch.autograd.grad(costs[:, 1].sum(), first[0], allow_unused=True)
    assert (gradient is not None and float(gradient.abs().max()) > 1e-6) == through


@pytest.mark.parametrize("p", [0, 1, -0.5])
def test_walks_that_never_or_always_go_on_are_refused(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Geometric(p)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (torch.full((2, 5), 1.5), r"needs \[0, 1\]"),
        (torch.full((2, 5), torch.nan), r"needs \[0, 1\]"),
        (torch.zeros(2, 4), r"\(batch, 5\) is needed"),
        (torch.zeros(2, 1, 5), "flatten"),
    ],
)
def test_data_outside_the_support_is_refused(x, text):
    model = GSN((5, 4))
    with pytest.raises(ValueError, match=text):
        model.cost(x)
    with pytest.raises(ValueError, match=text):
        chains.run(model, x, 1)


def test_a_corruption_that_keeps_everything_is_refused():
    model = GSN((5, 4), corruption=corruption.Custom(lambda x: x.clone()))
    with pytest.raises(ValueError, match="learn the identity"):
        model.cost(torch.zeros(2, 5))
    noisy = GSN((5, 4), hidden=[dither.NoisyTanh(before=1, after=1)], corruption=corruption.Custom(lambda x: x.clone()))
    assert torch.isfinite(noisy.cost(torch.zeros(2, 5))).all()


def test_an_interrupted_training_ends_with_the_same_bits(tmp_path):
    """Walks of random length, samples and hidden noise included: nothing but the checkpoint is needed to go on."""
    x = torch.rand(12, 5, generator=torch.Generator().manual_seed(0))

    def train(path, *, epochs, resume=False):
        torch.manual_seed(7)
        model = GSN((5, 4, 3), steps=Geometric(0.6))
        optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.5)
        with RunFolder.open(path) if resume else RunFolder.create(path, {}) as run:
            fit(
                model, lambda closure: closure().mean(), optimizer, lambda model, x, _: model.cost(x), (x, torch.zeros(12)),
                epochs=epochs, batch_size=4, seed=3, run=run, resume=resume,
            )  # fmt: skip
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    whole = train(tmp_path / "whole", epochs=4)
    train(tmp_path / "parts", epochs=1)
    train(tmp_path / "parts", epochs=3, resume=True)
    assert torch.equal(train(tmp_path / "parts", epochs=4, resume=True), whole)
