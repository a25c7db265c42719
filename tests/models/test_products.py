"""Products whose gradients are gathered, against plain autograd."""

import pytest
import torch

from dither.models import _products
from small_gsn import random_gsn, random_images


@pytest.mark.parametrize("added", ["own bias", "another bias", "rest of a sum"])
def test_what_is_added_to_a_product(added):
    torch.manual_seed(0)
    leaves = [torch.randn(5, 4), torch.randn(5), torch.randn(4), torch.randn(5), torch.randn(3, 5), torch.randn(3, 4)]
    weight, above, below, other, rest, x = (leaf.double().requires_grad_() for leaf in leaves)
    add = {"own bias": above, "another bias": other, "rest of a sum": rest}[added]
    products = _products.Products(weight, above, below)
    product = products.down(products.up(x, add).tanh(), below)
    expected = (x @ weight.T + add).tanh() @ weight + below
    torch.testing.assert_close(product, expected)
    factors, needed = torch.randn(3, 4).double(), [weight, add, below, x]
    ours, theirs = (torch.autograd.grad((factors * y).sum(), needed) for y in (product, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("order", ["odd-first", "even-first", "up-down", ((3,), (1,), (0, 2))])
@pytest.mark.parametrize("tied", [True, False])
def test_gathered_gradients_are_those_of_plain_products(monkeypatch, order, tied):
    model = random_gsn((5, 4, 3, 4), tied=tied, steps=3, order=order)
    gradients = []
    for gathers in (True, False):
        monkeypatch.setattr(_products.kernels, "plain", lambda *_, gathers=gathers: gathers)
        torch.manual_seed(0)
        model.zero_grad()
        model.cost(random_images()).mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for gathered, plain in zip(*gradients, strict=True):
        assert gathered.abs().max() > 1e-6
        torch.testing.assert_close(gathered, plain, rtol=1e-10, atol=1e-13)


def test_what_another_backward_pass_left_is_not_counted():
    model, x = random_gsn((5, 4, 3)), random_images().requires_grad_()
    torch.manual_seed(0)
    loss = model.cost(x).mean()
    torch.autograd.grad(loss, model.biases[0], retain_graph=True)  # of no weight
    loss.backward(retain_graph=True)
    once = model.connections[0].weight.grad.clone()
    loss.backward()
    torch.testing.assert_close(model.connections[0].weight.grad, 2 * once)
    torch.manual_seed(0)
    model.zero_grad()
    model.cost(x).mean().backward()
    torch.testing.assert_close(model.connections[0].weight.grad, once)
