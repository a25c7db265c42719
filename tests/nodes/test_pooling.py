"""The pooling nodes: which activation is picked how often, and what an image must look like."""

import pytest
import torch

import dither
from dither.testing import assert_mean

IMAGE = torch.tensor([[0.0, 1, 2, 0], [3, 4, 0, 0], [0, 0, 1e-3, 2], [0, 0, 1, 7]]).view(1, 1, 4, 4)


def test_noisy_max_pooling_is_max_pooling_of_noisy_input():
    node = dither.NoisyMaxPool2d(3, stride=2, scale=0.5)
    x = torch.randn(2, 3, 7, 9).requires_grad_()
    torch.manual_seed(5)
    pooled = node(x)
    torch.manual_seed(5)
    noise = node.keyed(x, dither.noise.draw_seed(), 0).draw(x)
    assert noise.shape == x.shape and abs(float(noise.std()) - 1) < 0.2
    expected = torch.nn.functional.max_pool2d(x + 0.5 * noise, 3, 2)
    assert torch.equal(pooled, expected)
    gradients = [torch.autograd.grad(y.sin().sum(), x)[0] for y in (pooled, expected)]
    assert torch.equal(*gradients)
    with dither.deterministic():
        assert torch.equal(node(x), torch.nn.functional.max_pool2d(x, 3, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frequencies_are_proportional_to_activations(dtype):
    node, draws = dither.StochasticPool2d(2), 20_000
    torch.manual_seed(0)
    pooled = node(IMAGE.to(dtype).expand(draws, 1, 4, 4)).float()
    for row, column, values in ((0, 0, (0, 1, 3, 4)), (0, 1, (0, 2)), (1, 1, (1, 2, 7))):
        window = IMAGE[0, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        for value in values:
            assert_mean((pooled[:, 0, row, column] == value).float(), value / float(window.sum()))
    assert pooled[:, 0, 1, 0].eq(0).all()
    with dither.deterministic("mean"):
        assert_mean(pooled, node(IMAGE)[0])


def test_noise_on_a_border_belongs_to_the_next_activation():
    # As u < p does for a bit: each activation has the noise from the sum of the probabilities before it, up to its own.
    node = dither.StochasticPool2d(2)
    picked = [node.sample(IMAGE[..., :2, :2], torch.full((1, 1, 1, 1), u)).item() for u in (0.1249, 0.125, 0.4999, 0.5)]
    assert picked == [1, 2, 2, 3]


def test_a_window_of_zeros_draws_uniformly():
    node = dither.StochasticPool2d(2)
    index = node.sample(
        torch.zeros(20_000, 1, 2, 2), dither.noise.uniform(torch.tensor(3), 0, torch.tensor(0), (20_000, 1, 1, 1), IMAGE)
    )
    assert_mean(torch.nn.functional.one_hot(index.flatten(), 4).float(), 0.25)


def test_rounding_never_picks_what_is_impossible():
    # Ten equal activations: their rounded cumulative sum may end below the greatest noise. The zeros behind must stay out.
    x = torch.zeros(1, 1, 4, 4)
    x.view(-1)[:10] = 0.1
    node = dither.StochasticPool2d(4)
    for u in (2.0**-33, 1 - 2.0**-24, 1.0):
        index = node.sample(x, torch.full((1, 1, 1, 1), u))
        assert x.view(-1)[index.item()] > 0


def test_mode_is_max_pooling_and_mean_the_papers_rule():
    node = dither.StochasticPool2d(2)
    assert node.mode(IMAGE).flatten().tolist() == [4, 2, 0, 7]
    torch.testing.assert_close(node.mean(IMAGE)[0, 0, 0], torch.tensor([26 / 8, 2.0]))


@pytest.mark.parametrize(
    ("kernel", "stride", "shape"), [(2, None, (2, 3)), ((1, 3), None, (5, 2)), (3, 1, (3, 5)), ((2, 3), (1, 2), (4, 3))]
)
def test_kernels_and_strides_are_those_of_torch(kernel, stride, shape):
    x = torch.rand(2, 3, 5, 7)
    assert torch.nn.functional.max_pool2d(x, kernel, stride).shape[2:] == shape
    for node in (dither.StochasticPool2d(kernel, stride=stride), dither.NoisyMaxPool2d(kernel, stride=stride)):
        assert node(x).shape == (2, 3, *shape) and node.mean(x).shape == (2, 3, *shape)
        assert torch.equal(node.mode(x), torch.nn.functional.max_pool2d(x, kernel, stride))


@pytest.mark.parametrize("node", [dither.NoisyMaxPool2d(2), dither.StochasticPool2d(2)], ids=repr)
@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4), (1, 1, 1, 4, 4)])
def test_images_have_four_dimensions(node, shape):
    with pytest.raises(ValueError, match=r"\(batch, channels, height, width\) is needed"):
        node(torch.rand(shape))


@pytest.mark.parametrize("node", [dither.NoisyMaxPool2d((2, 5)), dither.StochasticPool2d((2, 5))], ids=repr)
def test_a_kernel_that_does_not_fit_is_refused(node):
    with pytest.raises(ValueError, match=r"kernel_size \(2, 5\) does not fit.* 4 x 4.*smaller kernel"):
        node(torch.rand(1, 1, 4, 4))


def test_negative_activations_are_refused():
    with pytest.raises(ValueError, match=r"minimum: -0.5.*put a rectifier before it"):
        dither.StochasticPool2d(2)(IMAGE - 0.5)


def test_negative_activations_show_where_nobody_can_look():
    pooled = torch.func.vmap(dither.StochasticPool2d(2), randomness="different")(IMAGE.expand(3, 1, 1, 4, 4) - 0.5)
    assert pooled.isnan().all()
