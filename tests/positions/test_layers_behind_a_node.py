"""Usual layers behind a node: what `vectorize="auto"` gives is what a loop gives, and it warns where it had to loop, naming the
operation. `--long` tries every layer with every estimator, else each with one of them in turn."""

import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import dither

Layer = tuple[Callable[[], nn.Module], Callable[[Any, Tensor], Tensor], str | None]  # module, its use, what must be named
ESTIMATORS = {
    "leave-one-out": partial(dither.ScoreFunction, baseline="leave-one-out", samples=3),
    "DoubleCV": partial(dither.DoubleCV, samples=3),
    "DisARM": dither.DisARM,
}


def sequence(h: Tensor) -> Tensor:
    return h.view(4, 5, 6)


def image(h: Tensor) -> Tensor:
    return h.view(4, 2, 3, 5)


def channels(h: Tensor) -> Tensor:
    return h.view(4, 6, 5)


def index(h: Tensor) -> Tensor:
    return sequence(h).argmax(-1)


def same(h: Tensor) -> Tensor:
    return h


def through(make: Callable[..., nn.Module], *args: Any, view: Any = same, named: str | None = None, **options: Any) -> Layer:
    def use(layer: nn.Module, h: Tensor) -> Tensor:
        result = layer(view(h))
        return result[0] if isinstance(result, tuple) else result

    return partial(make, *args, **options), use, named


def stacked(*makes: Callable[[], nn.Module], view: Any = same) -> Layer:
    return lambda: nn.Sequential(*(make() for make in makes)), lambda layer, h: layer(view(h)), None


def function(use: Callable[[Any, Tensor], Tensor], named: str | None = None, make: Any = None) -> Layer:
    return make or partial(nn.Linear, 30, 6), use, named


def preallocated(layer: nn.Module, h: Tensor) -> Tensor:
    out = torch.zeros(4, 5, 6, dtype=h.dtype)
    for t in range(5):
        out[:, t] = sequence(h)[:, t]
    return out


def routed(experts: Any, h: Tensor) -> Tensor:
    out, choice = torch.zeros(4, 3, dtype=h.dtype), (h[:, 0] > 0).long()
    for number, expert in enumerate(experts):
        rows = (choice == number).nonzero().flatten()
        out = out.index_add(0, rows, expert(h[rows]))
    return out


def inner_gradient(layer: nn.Module, h: Tensor) -> Tensor:
    h = h.detach().requires_grad_()
    return torch.autograd.grad(layer(h).tanh().sum(), h, create_graph=True)[0]


def clipped(layer: nn.Module, h: Tensor) -> Tensor:
    y = layer(h)
    y.register_hook(lambda g: g.clamp(-0.01, 0.01))
    return y.tanh()


def compiled(layer: nn.Module, h: Tensor) -> Tensor:
    return torch.compile(layer, backend="eager")(h)


def hooked(kind: str) -> nn.Module:
    net = nn.Sequential(nn.Linear(30, 6), nn.Linear(6, 6))
    if kind == "forward":
        net[1].register_forward_hook(lambda module, given, out: out * 2)  # type: ignore[operator]
    else:
        net[1].register_full_backward_hook(lambda module, to_inputs, to_outputs: (2 * to_inputs[0],))
    return net


class Replaced(nn.Module):
    """Keeps a statistic by a new tensor each time."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(30))

    def forward(self, h: Tensor) -> Tensor:
        self.seen = 0.9 * self.seen + 0.1 * h.detach().mean(0)
        return h * 2


def attention(layer: Any, h: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(layer(sequence(h)), sequence(h), sequence(h), is_causal=True)


transformer = partial(nn.TransformerEncoderLayer, 6, 2, 8, 0.0, batch_first=True)
LAYERS: dict[str, Layer] = {
    "Linear": through(nn.Linear, 30, 6),
    "Conv1d": through(nn.Conv1d, 6, 3, 3, view=channels),
    "Conv2d": through(nn.Conv2d, 2, 3, 2, view=image),
    "ConvTranspose2d": through(nn.ConvTranspose2d, 2, 3, 2, view=image),
    "MaxPool2d": stacked(partial(nn.Conv2d, 2, 3, 1), partial(nn.MaxPool2d, 2), view=image),
    "AvgPool2d": through(nn.AvgPool2d, 2, view=image),
    "AdaptiveMaxPool2d": stacked(partial(nn.Conv2d, 2, 3, 1), partial(nn.AdaptiveMaxPool2d, 2), view=image),
    "BatchNorm1d, training": through(nn.BatchNorm1d, 30, named="batch_norm in BatchNorm1d"),
    "BatchNorm1d, eval": function(lambda m, h: m(h), None, lambda: nn.BatchNorm1d(30).eval()),
    "LayerNorm": through(nn.LayerNorm, 30),
    "GroupNorm": through(nn.GroupNorm, 2, 6, view=channels),
    "InstanceNorm1d": through(nn.InstanceNorm1d, 6, view=channels),
    "RMSNorm": through(nn.RMSNorm, 30),
    "Embedding": through(nn.Embedding, 6, 3, view=index),
    "Embedding by frequency": through(nn.Embedding, 6, 3, scale_grad_by_freq=True, view=index, named="scale_grad_by_freq"),
    "EmbeddingBag": through(nn.EmbeddingBag, 6, 3, view=index),
    "GRU": through(nn.GRU, 6, 4, batch_first=True, view=sequence, named="aten::gru in GRU"),
    "LSTM": through(nn.LSTM, 6, 4, batch_first=True, view=sequence, named="aten::lstm in LSTM"),
    "RNN": through(nn.RNN, 6, 4, batch_first=True, view=sequence, named="aten::rnn_tanh in RNN"),
    "GRUCell": through(nn.GRUCell, 30, 4),
    "LSTMCell": through(nn.LSTMCell, 30, 4, named="aten::lstm_cell in LSTMCell"),
    "MultiheadAttention": function(
        lambda m, h: m(sequence(h), sequence(h), sequence(h))[0], None, lambda: nn.MultiheadAttention(6, 2, batch_first=True)
    ),
    "TransformerEncoderLayer": through(transformer, view=sequence),
    "scaled_dot_product_attention": function(attention, None, partial(nn.Linear, 6, 6)),
    "Dropout": through(nn.Dropout, 0.5),
    "AlphaDropout": through(nn.AlphaDropout, 0.5),
    "Bilinear": function(lambda m, h: m(h, h), None, partial(nn.Bilinear, 30, 30, 3)),
    "Softmax": stacked(partial(nn.Linear, 30, 6), partial(nn.Softmax, -1)),
    "GLU": through(nn.GLU),
    "PReLU": stacked(partial(nn.Linear, 30, 6), nn.PReLU),
    "Upsample": through(nn.Upsample, scale_factor=2, mode="bilinear", view=image),
    "PixelShuffle": through(nn.PixelShuffle, 2, view=lambda h: h[:, :24].reshape(4, 4, 2, 3)),
    "Unfold": through(nn.Unfold, 2, view=image),
    "Fold": through(nn.Fold, (3, 2), (2, 1), view=lambda h: h[:, :24].reshape(4, 6, 4)),
    "out[:, t] = h": function(preallocated, "Tensor.__setitem__ at `out[:, t] = sequence(h)[:, t]`", nn.Identity),
    "index_put_": function(lambda m, h: m(h).index_put_((torch.arange(4), index(h)[:, 0]), h[:, 1] + 2)),
    "index_put_ into a fresh tensor": function(
        lambda m, h: torch.zeros(4, 6, dtype=h.dtype).index_put_((torch.arange(4), torch.arange(4)), h[:, 0]), "index_put_"
    ),
    "masked_scatter": function(lambda m, h: torch.zeros(4, 6, dtype=h.dtype).masked_scatter(h[:, :6] > 0, m(h))),
    "y[y > 0]": function(lambda m, h: m(h) + m(h)[h[:, :6] > 0].sum(), "Tensor.__getitem__"),
    "cumsum": function(lambda m, h: m(h).cumsum(1)),
    "sort": function(lambda m, h: m(h).sort(1).values),
    "topk": function(lambda m, h: m(h).topk(2, 1).values),
    "forward hook": function(lambda m, h: m(h), None, partial(hooked, "forward")),
    "backward hook": function(lambda m, h: m(h), "look at `requires_grad`", partial(hooked, "backward")),
    "hook of a tensor": function(clipped, "Tensor.register_hook"),
    "if y.requires_grad": function(lambda m, h: m(h) * (2 if m(h).requires_grad else 1), "look at `requires_grad`"),
    "autograd.grad": function(inner_gradient, "Tensor.requires_grad_"),
    ".item()": function(lambda m, h: m(h) * (2 if h.sum().item() > 58 else 1), "Tensor.item"),
    "if h": function(lambda m, h: m(h) * (2 if h.sum() > 58 else 1), "Tensor.__bool__"),
    "compiled": function(compiled),
    "checkpointed": function(lambda m, h: checkpoint(lambda h: m(h).tanh(), h, use_reentrant=False), "activation checkpoint"),
    "weight_norm": function(lambda m, h: m(h), None, lambda: parametrizations.weight_norm(nn.Linear(30, 6))),
    "spectral_norm": function(lambda m, h: m(h), None, lambda: parametrizations.spectral_norm(nn.Linear(30, 6)).eval()),
    "routing": function(routed, "nonzero", lambda: nn.ModuleList([nn.Linear(30, 3), nn.Linear(30, 3)])),
    "a buffer replaced": function(lambda m, h: m(h), "the buffer 'seen' of Replaced", Replaced),
}
EVERY = [
    pytest.param(layer, name, marks=[] if place == number % 3 else pytest.mark.long)
    for number, layer in enumerate(LAYERS)
    for place, name in enumerate(ESTIMATORS)
]


def run(layer: str, name: str, vectorize: Any) -> tuple[list[Tensor], list[str]]:
    """(the loss of a second call, every parameter's gradient and every buffer after it; what was warned of in both calls). A
    first call may run the closure more often, to learn of its layout."""
    make, use, _ = LAYERS[layer]
    torch.manual_seed(0)
    net = nn.ModuleDict({"in": nn.Linear(7, 30), "node": dither.Bernoulli(), "behind": make()}).double()
    x = torch.randn(4, 7, dtype=torch.float64)
    estimator = ESTIMATORS[name](net, vectorize=vectorize)
    estimator.examples = "separate"

    def closure() -> Tensor:
        y = use(net["behind"], net["node"](net["in"](x))).flatten(1)
        return (y * torch.linspace(-1, 1, y.shape[1], dtype=y.dtype)).sum(1).square()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for seed in range(2):
            torch.manual_seed(seed)
            net.zero_grad()
            loss = estimator(closure)
            loss.backward()
    results = [loss.detach(), *(p.grad for p in net.parameters() if p.grad is not None), *net.buffers()]
    return results, [str(w.message) for w in caught if "one after the other" in str(w.message)]


@pytest.mark.parametrize(("layer", "name"), EVERY)
def test_a_layer_behind_a_node(layer: str, name: str) -> None:
    looped, silent = run(layer, name, False)
    for vectorize in ("auto", True):
        actual, told = run(layer, name, vectorize)
        assert len(actual) == len(looped) and bool(looped[1].any())
        for one, other in zip(actual, looped, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
        named = LAYERS[layer][2]
        assert len(told) == (named is not None), "one warning where the loop was used, and none else"
        assert named is None or re.search(re.escape(named), told[0]), told
    assert not silent
