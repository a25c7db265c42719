"""Traced credit over the operators of ordinary nets: it covers what flipping a unit changes, and no more where it can tell."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither import Bernoulli, ScoreFunction, exact

DOUBLE, T, D, SEEDS = torch.float64, 4, 4, 3
CAUSAL = torch.ones(T, T, dtype=torch.bool).tril()  # (queries, keys)
TARGET = torch.tensor([0, 1, 2, 3])
PADDED = torch.tensor([True, True, True, False])
INFINITE = torch.zeros(T, T, dtype=DOUBLE).masked_fill(~CAUSAL, -torch.inf)


class Weights:
    """Random tensors, the same in every run: w(2, 3) is the next one."""

    def __init__(self, seed: int) -> None:
        self.generator, self.known, self.next = torch.Generator().manual_seed(seed), [], 0

    def __call__(self, *shape: int) -> Tensor:
        if self.next == len(self.known):
            self.known.append(torch.randn(shape, generator=self.generator, dtype=DOUBLE))
        self.next += 1
        return self.known[self.next - 1]


def attention(x: Tensor, w: Weights, scores: Callable[[Tensor], Tensor]) -> Tensor:
    """Spelt out: `scores` puts the mask."""
    q, k, v = (x @ w(D, D) for _ in range(3))
    return scores(q @ k.transpose(1, 2) / D**0.5).softmax(-1) @ v


def fused(x: Tensor, w: Weights, heads: int = 2, **kwargs) -> Tensor:
    q, k, v = ((x @ w(D, D)).unflatten(2, (heads, -1)).transpose(1, 2) for _ in range(3))
    return F.scaled_dot_product_attention(q, k, v, **kwargs).transpose(1, 2).flatten(2)


def bits(x: Tensor, w: Weights) -> Tensor:
    """The samples again, as whole numbers, by way of x."""
    return (x[..., 0] > w.known[0][:, 0]).long()


def layer(module: nn.Module, w: Weights) -> nn.Module:
    """With parameters of these weights."""
    module = module.double()
    for parameter in module.parameters():
        parameter.data = w(*parameter.shape) * 0.7
    return module


def encoded(x: Tensor, w: Weights, **kwargs) -> Tensor:
    mask = nn.Transformer.generate_square_subsequent_mask(T, dtype=DOUBLE)
    return layer(nn.TransformerEncoderLayer(D, 2, 8, dropout=0.0, batch_first=True), w)(x, src_mask=mask, **kwargs)


def attended(x: Tensor, w: Weights, need_weights: bool) -> Tensor:
    return layer(nn.MultiheadAttention(D, 2, batch_first=True), w)(x, x, x, attn_mask=~CAUSAL, need_weights=need_weights)[0]


def recurrent(x: Tensor, w: Weights, kind: type[nn.Module], **kwargs) -> Tensor:
    return layer(kind(D, 3, batch_first=True, **kwargs), w)(x)[0]


def in_one_kernel(x: Tensor, w: Weights, batch_first: bool, **kwargs) -> Tensor:
    """In single precision, which has a kernel of its own."""
    lstm = layer(nn.LSTM(D, 3, batch_first=batch_first, **kwargs), w).float()
    x = x.float() if batch_first else x.float().transpose(0, 1)
    out = lstm(x)[0] if batch_first else lstm(x)[0].transpose(0, 1)
    return (out * 1e4).round().double()


def unrolled(x: Tensor, w: Weights, kind: type[nn.Module]) -> Tensor:
    cell, state, out = layer(kind(D, D), w), None, []
    for t in range(T):
        state = cell(x[:, t], state)
        out.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(out, 1)


def channels(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Weights], Tensor]:
    """On (batch, channels, time)."""
    return lambda x, w: f(x.transpose(1, 2)).transpose(1, 2)


def image(x: Tensor, w: Weights) -> Tensor:
    out = F.conv2d(x.transpose(1, 2).unsqueeze(2), w(3, D, 1, 3), w(3), padding=(0, 1))
    return F.max_pool2d(out, (1, 3), stride=1, padding=(0, 1)).squeeze(2).transpose(1, 2)


def in_place(x: Tensor, w: Weights) -> Tensor:
    return attention(x, w, lambda s: s.masked_fill_(~CAUSAL, float("-inf")))


def preallocated(x: Tensor, w: Weights) -> Tensor:
    out = x.new_zeros(len(x), T, D)
    for t in range(T):
        out[:, t] = x[:, : t + 1].sum(1).tanh()
    return out


# (batch, time, features) -> the same, or (batch, time): a cost for each position.
LAYERS: dict[str, Callable[[Tensor, Weights], Tensor]] = {
    "linear": lambda x, w: F.linear(x, w(5, D), w(5)).relu(),
    "flattened": lambda x, w: F.linear(x.reshape(-1, D), w(5, D), w(5)).view(len(x), T, 5),
    "layer norm": lambda x, w: F.layer_norm(x, (D,), w(D), w(D)),
    "rms norm": lambda x, w: F.rms_norm(x, (D,), w(D)),
    "group norm": lambda x, w: F.group_norm(x.reshape(-1, D), 2, w(D), w(D)).view(len(x), T, D),
    "group norm over time": channels(lambda x: F.group_norm(x, 2)),
    "batch norm, eval": lambda x, w: layer(nn.BatchNorm1d(D), w).eval()(x.transpose(1, 2)).transpose(1, 2),
    "embedding": lambda x, w: F.embedding(bits(x, w), w(2, D)),
    "embedding, one hot": lambda x, w: F.one_hot(bits(x, w), 2).double() @ w(2, D),
    "gather": lambda x, w: x.gather(2, torch.tensor([2, 0]).expand(len(x), T, 2)),
    "gather by it": lambda x, w: w(T, 2).expand(len(x), T, 2).gather(2, bits(x, w).unsqueeze(2)),
    "index_select": lambda x, w: x.index_select(2, torch.tensor([3, 0])),
    "index": lambda x, w: x[:, :, torch.tensor([3, 0])],
    "index, apart": lambda x, w: x.unsqueeze(1)[torch.arange(len(x)).view(-1, 1), 0, :, torch.tensor([[1, 2]])].mT,
    "one position for all": lambda x, w: x + x[:, torch.tensor([T - 1])],
    "index_add": lambda x, w: (x * 1.0).index_add(2, torch.tensor([0, 1]), x[..., 2:].sin()),
    "conv1d": lambda x, w: F.conv1d(x.transpose(1, 2), w(3, D, 3), w(3), padding=1).transpose(1, 2),
    "conv1d, causal": lambda x, w: F.conv1d(F.pad(x.transpose(1, 2), (2, 0)), w(3, D, 3)).transpose(1, 2),
    "conv1d, groups, dilated": lambda x, w: F.conv1d(
        x.transpose(1, 2), w(D, 2, 2), padding=2, dilation=2, groups=2
    ).transpose(1, 2)[:, :T],
    "conv_transpose1d": lambda x, w: F.conv_transpose1d(x.transpose(1, 2), w(D, 2, 2)).transpose(1, 2)[:, :T],
    "conv2d and pooling": image,
    "max_pool1d": channels(lambda x: F.max_pool1d(x, 3, 1, 1)),
    "avg_pool1d": channels(lambda x: F.avg_pool1d(x, 3, 1, 1)),
    "pooled and repeated": channels(lambda x: F.interpolate(F.adaptive_avg_pool1d(x, 2), scale_factor=2)),
    "replicated": channels(lambda x: F.pad(x, (2, 0), mode="replicate")[..., :T]),
    "dropout": lambda x, w: F.dropout(x, 0.3, training=True),
    "sdpa": lambda x, w: fused(x, w),
    "sdpa, values alone": lambda x, w: F.scaled_dot_product_attention(w(T, 2), w(T, 2), x, is_causal=True),
    "sdpa, keys alone": lambda x, w: F.scaled_dot_product_attention(w(T, D), x, w(T, D), attn_mask=CAUSAL),
    "sdpa, causal": lambda x, w: fused(x, w, is_causal=True),
    "sdpa, bool mask": lambda x, w: fused(x, w, attn_mask=CAUSAL),
    "sdpa, float mask": lambda x, w: fused(x, w, attn_mask=INFINITE),
    "sdpa, padded": lambda x, w: fused(x, w, attn_mask=CAUSAL & PADDED),
    "sdpa, dropout": lambda x, w: fused(x, w, attn_mask=CAUSAL, dropout_p=0.3),
    "masked_fill": lambda x, w: attention(x, w, lambda s: s.masked_fill(~CAUSAL, -torch.inf)),
    "masked_fill_": in_place,
    "where": lambda x, w: attention(x, w, lambda s: torch.where(CAUSAL, s, -torch.inf)),
    "added mask": lambda x, w: attention(x, w, lambda s: s + INFINITE),
    "mask made within": lambda x, w: attention(
        x, w, lambda s: s + torch.full((T, T), -torch.inf, dtype=DOUBLE).triu(1)
    ),
    "attention dropped out": lambda x, w: F.dropout(
        (x @ w(D, D) @ x.mT).masked_fill(~CAUSAL, -torch.inf).softmax(-1), 0.3
    ) @ x,
    "refilled": lambda x, w: attention(
        x, w, lambda s: s.masked_fill(~CAUSAL, -torch.inf).masked_fill(torch.ones(T, T, dtype=torch.bool).triu(2), 0.5)
    ),
    "einsum": lambda x, w: torch.einsum(
        "bts,bsd->btd", torch.einsum("btd,bsd->bts", x, x).masked_fill(~CAUSAL, -torch.inf).softmax(-1), x
    ),
    "MultiheadAttention": lambda x, w: attended(x, w, False),
    "MultiheadAttention, weights": lambda x, w: attended(x, w, True),
    "TransformerEncoderLayer": encoded,
    "TransformerEncoderLayer, padded": lambda x, w: encoded(
        x, w, src_key_padding_mask=torch.zeros(len(x), T, dtype=DOUBLE).masked_fill(~PADDED, -torch.inf)
    ),
    "GRU": lambda x, w: recurrent(x, w, nn.GRU),
    "LSTM": lambda x, w: recurrent(x, w, nn.LSTM),
    "LSTM, both ways": lambda x, w: recurrent(x, w, nn.LSTM, bidirectional=True),
    "LSTM, one kernel": lambda x, w: in_one_kernel(x, w, True),
    "LSTM, one kernel, time first": lambda x, w: in_one_kernel(x, w, False, num_layers=2),
    "LSTM, one kernel, both ways": lambda x, w: in_one_kernel(x, w, True, bidirectional=True),
    "GRUCell": lambda x, w: unrolled(x, w, nn.GRUCell),
    "LSTMCell": lambda x, w: unrolled(x, w, nn.LSTMCell),
    "cumsum": lambda x, w: x.cumsum(1),
    "logcumsumexp": lambda x, w: x.logcumsumexp(1),
    "roll": lambda x, w: x.roll(1, 1),
    "flip": lambda x, w: x.flip(1),
    "stacked": lambda x, w: torch.stack((x, x.roll(-1, 1)), -1).flatten(2),
    "joined": lambda x, w: torch.cat((x[:, 1:], x[:, :1].sin()), 1),
    "chunked": lambda x, w: torch.cat([part.mean(1, keepdim=True).expand_as(part) for part in x.chunk(2, 1)], 1),
    "shifted": lambda x, w: F.pad(x, (0, 0, 1, 0))[:, :-1],
    "glu": lambda x, w: F.glu(x, -1),
    "cosine": lambda x, w: F.cosine_similarity(x, w(T, D), -1),
    "windows": lambda x, w: F.pad(x, (0, 0, 1, 0)).unfold(1, 2, 1).prod(-1),
    "repeated": lambda x, w: x.repeat(1, 2, 1)[:, T:],
    "repeat_interleave": lambda x, w: x.repeat_interleave(2, 1)[:, ::2],
    "norm": lambda x, w: x.norm(dim=-1),
    "topk": lambda x, w: x.topk(2, -1).values,
    "preallocated": preallocated,
    "selected positions": lambda x, w: torch.where(PADDED.unsqueeze(-1), x, 0.0),
    "cross_entropy": lambda x, w: F.cross_entropy(x.transpose(1, 2), TARGET.expand(len(x), T), reduction="none"),
    "cross_entropy, flattened": lambda x, w: F.cross_entropy(
        x.flatten(0, 1), torch.tensor([0, 1, -100, 3]).repeat(len(x)), reduction="none", label_smoothing=0.1
    ).view(len(x), T),
    "nll_loss": lambda x, w: F.nll_loss(
        x.log_softmax(-1).flatten(0, 1), torch.tensor([0, 1, 2, 3]).repeat(len(x)), reduction="none"
    ).view(-1, T),
    "bce": lambda x, w: F.binary_cross_entropy(x.sigmoid(), torch.ones_like(x), reduction="none"),
    "bce with logits": lambda x, w: F.binary_cross_entropy_with_logits(x, torch.ones_like(x), reduction="none"),
    "smooth_l1": lambda x, w: F.smooth_l1_loss(x, w(T, D).expand_as(x), reduction="none"),
    "huber": lambda x, w: F.huber_loss(x, w(T, D).expand_as(x), reduction="none"),
    "mse": lambda x, w: F.mse_loss(x, w(T, D).expand_as(x), reduction="none"),
    "kl_div": lambda x, w: F.kl_div(x.log_softmax(-1), w(T, D).softmax(-1).expand_as(x), reduction="none"),
}  # fmt: skip
# Where more is credited than the samples change: values that are taken by data, or are multiplied by a zero.
WIDER = {
    "embedding, one hot",
    "sdpa, keys alone",
    "one position for all",
    "refilled",
    "windows",
    "selected positions",
    "cross_entropy, flattened",
}


WHOLE = {
    "embedding, one hot",
    "refilled",
    "sdpa",
    "LSTM, both ways",
    "LSTM, one kernel, both ways",
    "group norm over time",
    "one position for all",
}


class Gates(nn.Module):
    """A unit for each position, in the batch that runs through all of their samples."""

    def __init__(self, layer: Callable[[Tensor, Weights], Tensor], seed: int, batch: int = 2**T, random: bool = False) -> None:
        super().__init__()
        self.node, self.layer, self.weights, self.batch = Bernoulli(), layer, Weights(seed), batch
        self.random = random  # each row draws numbers, which must be the same
        self.logits = nn.Parameter(torch.linspace(-0.5, 0.8, T, dtype=DOUBLE))

    def forward(self) -> Tensor:
        return self.cost(self.node(self.logits.expand(self.batch, T)))

    def cost(self, h: Tensor) -> Tensor:
        self.weights.next = 0
        x = self.weights(T, D) + (h.unsqueeze(-1) - 0.4) * self.weights(T, D)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            out = self.layer(x, self.weights)
        return out if out.dim() == 2 else (out * self.weights(out.shape[-1])).sum(-1)

    def reached(self) -> Tensor:
        """(units, terms): what another sample of a unit changes, whatever the others' are."""
        rows = torch.arange(2**T)
        h = (rows.unsqueeze(-1) >> torch.arange(T) & 1).double()
        cost = torch.cat([self.cost(row) for row in (h.split(1) if self.random else (h,))])
        flips = [(cost - cost[rows ^ (1 << unit)]).abs() > 1e-12 for unit in range(T)]
        return torch.stack([flip.any(0) for flip in flips])


@pytest.mark.filterwarnings("ignore:.*prototype.*", "ignore:.*enable_nested_tensor.*")
@pytest.mark.parametrize("name", LAYERS)
def test_credit_covers_what_a_unit_changes(name: str) -> None:
    reached = torch.zeros(T, T, dtype=torch.bool)
    for seed in range(1 if "dropout" in name or "dropped" in name else SEEDS):
        net = Gates(LAYERS[name], seed, random="drop" in name)
        reached |= net.reached()
        traced = ScoreFunction(net).credit_report(net)["node"].influence
        assert bool((traced >= net.reached()).all()), "credit was lost"
    if "drop" in name:  # what one sample of the noise leaves over is no measure
        reached = torch.eye(T, dtype=torch.bool) if name == "dropout" else CAUSAL.T
    if name not in WIDER:
        assert torch.equal(traced, reached), f"traced {traced.int().tolist()}, reached {reached.int().tolist()}"
    assert name in WHOLE or not bool(traced.all())


@pytest.mark.filterwarnings("ignore:.*prototype.*", "ignore:.*enable_nested_tensor.*")
def test_traced_credit_is_unbiased(request: pytest.FixtureRequest) -> None:
    names = list(LAYERS) if request.config.getoption("--long") else ["sdpa, padded", "masked_fill_", "conv1d", "refilled"]
    for name in names:
        if "drop" not in name:
            net = Gates(LAYERS[name], 1, batch=1)
            right = exact.gradient(net, net, vectorize=False)["logits"]
            estimator = ScoreFunction(net, vectorize=False)
            actual = exact.moments(estimator, net, vectorize=False, variance=False).mean["logits"]
            torch.testing.assert_close(actual, right, rtol=1e-9, atol=1e-10, msg=name)
