"""Every kernel in plain torch: what runs where there is no native library, and the oracle of those that there are.

Tensors are rows, as the native library has them: values (lead, batch, units), ids (lead, batch), samples (lead,).

Noise of a row, keyed by Philox counters (block, id mod 2^32, sample 2^16 + id div 2^32, stream):

    uniform   units in groups of 128. Unit i of group g has its 16 high bits from stream 0 and its 16 low bits from stream 1, in
              word 64 g + i mod 64 of the stream: the lower half for i < 64, the upper half above. So a sample reads half a
              word, and the other half once in 2^16. u = (word, its lowest bits cut off until 24 are left, + 1/2) 2^-32.
    normal    words 2 j and 2 j + 1 of stream 2 make the normals 2 j and 2 j + 1, sqrt(-2 log u) (cos, sin)(2 pi word 2^-32).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dither.kernels import _exactly
from dither.kernels._philox import MASK, key_of, philox

HIGH, LOW, PAIRS = 0, 1, 2
_PIECE = 1 << 14  # counters at a time
_CLOSE = 1e-5  # far above the error of float64 functions of float32 numbers, and of _exactly's


def words(seed: int, site: int, samples: Tensor, ids: Tensor, blocks: int, stream: int) -> Tensor:
    """(lead, batch, 4 blocks) int64 words of a stream."""
    counter = torch.zeros((4, *ids.shape, blocks), dtype=torch.int64, device=ids.device)
    counter[0] = torch.arange(blocks, device=ids.device, dtype=torch.int64)
    counter[1] = (ids & MASK).unsqueeze(-1)
    counter[2] = (((ids >> 32) + (samples.to(ids.device) << 16).unsqueeze(-1)) & MASK).unsqueeze(-1)
    counter[3] = stream
    # In pieces that stay in the cache, and too small for torch to spread over threads, whose hand-over would cost more.
    pieces = counter.view(4, -1).split(_PIECE if counter.device.type == "cpu" else 1 << 62, 1)
    key = key_of(seed, site)
    stream_words = torch.cat([philox(piece, key).T for piece in pieces])
    return stream_words.reshape(*ids.shape, blocks * 4)


def _scaled(word: Tensor) -> Tensor:
    """2^32 u: the word as float32, rounded towards zero, + 1/2."""
    wide = (word.double().view(torch.int64) & ~((1 << 29) - 1)).view(torch.float64)
    return wide.float() + 0.5


def unit_words(seed: int, site: int, samples: Tensor, ids: Tensor, units: int) -> Tensor:
    """(lead, batch, units) int64: the 32-bit word of each unit's uniform."""
    groups, rest = divmod(units, 128)
    blocks = groups * 16 + -(-min(rest, 64) // 4)
    halves = []
    for stream in (HIGH, LOW):
        both = words(seed, site, samples, ids, blocks, stream)
        both = torch.nn.functional.pad(both, (0, -both.shape[-1] % 64)).unflatten(-1, (-1, 1, 64))
        halves.append(torch.cat((both & 0xFFFF, both >> 16), -2).flatten(-3)[..., :units])
    return (halves[0] << 16) | halves[1]


def uniform(seed: int, site: int, samples: Tensor, ids: Tensor, units: int) -> Tensor:
    return _scaled(unit_words(seed, site, samples, ids, units)) * 2.0**-32


def normal(seed: int, site: int, samples: Tensor, ids: Tensor, units: int) -> Tensor:
    pairs = words(seed, site, samples, ids, -(-units // 4), PAIRS).unflatten(-1, (-1, 2))
    both = torch.stack(_exactly.normals(_scaled(pairs[..., 0]), pairs[..., 1]), -1)
    return both.flatten(-2)[..., :units].contiguous()


def bernoulli_from_uniform(logits: Tensor, uniform: Tensor) -> Tensor:
    """1[u < sigmoid(a)] as float32, by u (1 + e^-a) < 1; NaN where a logit is. float32, equal shapes."""
    gap = uniform.double() * (1 + torch.exp(-logits.double())) - 1
    one = gap < 0
    close = (gap.abs() < _CLOSE).nonzero(as_tuple=True)
    one[close] = _exactly.below_sigmoid(uniform[close], logits[close])
    return torch.where(logits.isnan(), logits, one.float())


def categorical_from_uniform(logits: Tensor, uniform: Tensor) -> Tensor:
    """One-hot float32 of argmax_k (a_k - log(-log(1 - u_k))) over the last dimension; NaN where there is no winner."""
    certain = logits == math.inf
    proper = torch.where(certain.any(-1, keepdim=True), torch.where(certain, torch.zeros_like(logits), -math.inf), logits)
    scores = proper.double() - torch.log(-torch.log1p(-uniform.double()))
    top = torch.topk(scores, 2, -1).values
    index = scores.argmax(-1)
    close = (~(top[..., 0] - top[..., 1] > _CLOSE * (1 + top[..., 0].abs()))).nonzero(as_tuple=True)
    index[close] = (proper[close] + _exactly.gumbel(uniform[close])).argmax(-1)
    hard = (index.unsqueeze(-1) == torch.arange(logits.shape[-1], device=logits.device, dtype=torch.int64)).float()
    impossible = logits.isnan().any(-1, keepdim=True) | (logits == -math.inf).all(-1, keepdim=True)
    return torch.where(impossible, math.nan, hard)


def noisy_relu(logits: Tensor, noise: Tensor, scale: float) -> Tensor:
    return torch.relu(logits + scale * noise)


def noisy_tanh(logits: Tensor, noise: Tensor, before: float, after: float) -> tuple[Tensor, Tensor]:
    """(output, the tanh in it). noise: (..., units, 2)."""
    inner = torch.tanh(logits + before * noise[..., 0])
    return inner + after * noise[..., 1], inner


def salt_and_pepper(x: Tensor, noise: Tensor, rate: float, low: float, high: float) -> Tensor:
    rates = torch.tensor((rate * 0.5, rate), dtype=torch.float32, device=x.device)
    return torch.where(noise < rates[1], torch.where(noise < rates[0], x.new_full((), low), x.new_full((), high)), x)


def straight_through(gradient: Tensor, logits: Tensor, factor: float) -> Tensor:
    wide = torch.promote_types(logits.dtype, torch.float32)
    p = torch.sigmoid(logits.to(wide))
    return (factor * gradient.to(wide) * (p * (1 - p))).to(gradient.dtype)


# --- packed bits: unit i of a row is bit i mod 64 of word i div 64 -------------------------------------------------------
def pack(values: Tensor) -> Tensor:
    """(rows, units) -> (rows, words) int64, a bit for every value that is not 0."""
    on = torch.nn.functional.pad(values != 0, (0, -values.shape[-1] % 64)).unflatten(-1, (-1, 64)).to(torch.int64)
    return (on << torch.arange(64, device=values.device, dtype=torch.int64)).sum(-1)


def unpack(packed: Tensor, units: int, dtype: torch.dtype) -> Tensor:
    """(rows, words) -> (rows, units) of {0, 1}."""
    bits = (packed.unsqueeze(-1) >> torch.arange(64, device=packed.device, dtype=torch.int64)) & 1
    return bits.flatten(-2)[..., :units].to(dtype)


def turn_bits(packed: Tensor, units: int) -> Tensor:
    """The bits of (rows, units) packed along the rows: (units, words of rows)."""
    return pack(unpack(packed, units, torch.float32).T)


def packed_linear(packed: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.nn.functional.linear(unpack(packed, weight.shape[1], weight.dtype), weight, bias)


def packed_outer(packed: Tensor, gradient: Tensor, inputs: int) -> Tensor:
    return gradient.T @ unpack(packed, inputs, gradient.dtype)


def packed_score(packed: Tensor, logits: Tensor, advantage: Tensor, in_place: bool = False) -> Tensor:
    return (unpack(packed, logits.shape[-1], logits.dtype) - torch.sigmoid(logits)) * advantage


def packed_log_prob(packed: Tensor, logits: Tensor) -> Tensor:
    h = unpack(packed, logits.shape[-1], logits.dtype)
    return torch.nn.functional.logsigmoid((2 * h - 1) * logits).sum(-1)
