"""How taint passes the operators of layers: normalisation, convolution and pooling, indexing, attention, losses.

Of what is taken by an index all places count, whatever the index is: no conclusion is drawn from data. An attention mask is
looked at if no sample changes it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dither.estimators.core.tracing.rules import RULES, Operator, Rule, attended, pointwise, so_far, united


def passed_on(op: Operator, output: Tensor, number: int) -> Tensor:
    """The taint of one output, (sources, *sizes), each size that of the output or 1."""
    rule = pointwise if op.pointwise else _ALL.get(op.name)
    if rule is None and op.name.startswith("_scaled_dot_product"):
        rule = _attention
    mask = None if rule is None else rule(op, output, number)
    if mask is not None and mask.dim() == output.dim() + 1 and _fits(mask, output):
        return mask
    return op.masks.everything(output.dim())


def is_known(op: Operator) -> bool:
    """Whether there is a rule for it."""
    return op.pointwise or op.name in _ALL or op.name.startswith("_scaled_dot_product")


def _fits(mask: Tensor, output: Tensor) -> bool:
    return all(m in (1, n) for m, n in zip(mask.shape[1:], output.shape, strict=True))


# --- normalisation --------------------------------------------------------------------------------------------------------
def _layer_norm(op: Operator, output: Tensor, number: int) -> Tensor | None:
    mask = op.mask("input")
    if mask is not None:
        mask = mask.any([-d - 1 for d in range(len(op.get("normalized_shape")))], keepdim=True)
    return united([mask, *(() if number else (op.mask("weight"), op.mask("bias")))], output.dim())


def _group_norm(op: Operator, output: Tensor, number: int) -> Tensor | None:
    mask, groups, dims = op.mask("input"), op.get("group"), output.dim()
    if number:
        return None
    if mask is not None:
        mask = mask.flatten(3).any(-1) if dims > 2 else mask  # (sources, batch, channels)
        mask = _per_channel(_in_groups(mask, groups), output.shape[1]).view(*mask.shape[:2], -1, *[1] * (dims - 2))
    scales = [_channels(op.mask(name), dims) for name in ("weight", "bias")]
    return united([mask, *scales], dims)


def _batch_norm(op: Operator, output: Tensor, number: int) -> Tensor | None:
    mask, dims = op.mask("input"), op.args[0].dim()
    if op.get("training") is not False and op.name != "_native_batch_norm_legit_no_training":
        mask = None if mask is None else mask.any([d for d in range(1, dims + 1) if d != 2], keepdim=True)
    if number:
        return None
    others = ("weight", "bias", "running_mean", "running_var")
    return united([mask, *(_channels(op.mask(name), dims) for name in others)], dims)


def _channels(mask: Tensor | None, dims: int) -> Tensor | None:
    """Of a number per channel, for (batch, channels, ...)."""
    return None if mask is None else mask.view(mask.shape[0], 1, -1, *[1] * (dims - 2))


def _in_groups(mask: Tensor, groups: int) -> Tensor:
    """(sources, batch, channels, ...) -> (sources, batch, groups or 1, ...)."""
    if mask.shape[2] == 1:
        return mask
    return mask.unflatten(2, (groups, -1)).any(3)


def _per_channel(mask: Tensor, channels: int) -> Tensor:
    groups = mask.shape[2]
    return mask if groups == 1 else mask.repeat_interleave(channels // groups, 2)


# --- windows --------------------------------------------------------------------------------------------------------------
def _convolution(op: Operator, output: Tensor, number: int) -> Tensor | None:
    x, weight, mask = op.get("input"), op.get("weight"), op.mask("input")
    if mask is None or op.mask("weight") is not None or op.mask("bias") is not None:
        return None
    mask = _in_groups(mask, op.get("groups"))
    if mask.shape[3:].numel() > 1:
        mask = mask.expand(*mask.shape[:3], *x.shape[2:])
        window = torch.ones(1, 1, *weight.shape[2:], dtype=torch.float32, device="cpu")
        names = ("stride", "padding", "dilation", "transposed", "output_padding")
        reached = torch.ops.aten.convolution(
            mask.reshape(-1, 1, *mask.shape[3:]).float(), window, None, *(op.get(name) for name in names), 1
        )
        mask = (reached > 0.5).view(*mask.shape[:3], *reached.shape[2:])
    return _per_channel(mask, output.shape[1])


def _window(op: Operator, output: Tensor, number: int) -> Tensor | None:
    """Pooling, padding by what is there, and resampling by the nearest: the operator itself on the mask tells."""
    mask, x = op.only_first(), op.args[0]
    moving = _dims(op.name)
    if mask is None or mask.shape[-moving:].numel() == 1:
        return mask
    mask = mask.expand(*mask.shape[:-moving], *x.shape[-moving:])
    reached = op.func(mask.reshape(-1, 1, *mask.shape[-moving:]).float(), *op.args[1:], **op.kwargs)
    reached = reached[0] if isinstance(reached, tuple) else reached
    return (reached > 0).view(*mask.shape[:-moving], *reached.shape[-moving:])


def _dims(name: str) -> int:
    """How many dimensions it moves over: that of max_pool2d_with_indices is 2."""
    return next(n for n in (1, 2, 3) if f"{n}d" in name)


# --- indexing -------------------------------------------------------------------------------------------------------------
def _embedding(op: Operator, output: Tensor, number: int) -> Tensor | None:
    weight, indices = op.mask("weight"), op.mask("indices")
    columns = None if weight is None else weight.any(1)
    return united([columns, None if indices is None else indices.unsqueeze(-1)], output.dim())


def _index_select(op: Operator, output: Tensor, number: int) -> Tensor | None:
    source, index, dims = op.mask("self"), op.mask("index"), output.dim()
    if dims == 0:
        return None
    axis = op.get("dim") % dims + 1
    source = None if source is None else source.any(axis, keepdim=True)
    if index is not None:
        index = index.reshape(index.shape[0], *[1] * (axis - 1), -1, *[1] * (dims - axis))
    return united([source, index], dims)


def _gather(op: Operator, output: Tensor, number: int) -> Tensor | None:
    source, index, dims = op.mask("self"), op.mask("index"), output.dim()
    if dims == 0:
        return None
    if source is not None:
        source = source.any(op.get("dim") % dims + 1, keepdim=True)
        for d, size in enumerate(output.shape):  # of the other dimensions the first ones are taken
            source = source.narrow(d + 1, 0, min(size, source.shape[d + 1]))
    return united([source, index], dims)


def _index(op: Operator, output: Tensor, number: int) -> Tensor | None:
    """x[i, :, j]: the dimensions that are indexed become those of the indices, at the place of the first of them, or in front
    if they are apart."""
    source, indices = op.mask("self"), list(op.get("indices"))
    taken: list[int] = []  # dimensions
    places: list[bool] = []
    dim = wide = 0
    for index in indices:
        if index is None:
            places.append(False)
            dim += 1
            continue
        covers = index.dim() if index.dtype in (torch.bool, torch.uint8) else 1
        taken += range(dim, dim + covers)
        places.append(True)
        dim += covers
        wide = max(wide, 1 if covers != 1 or index.dtype in (torch.bool, torch.uint8) else index.dim())
    if not taken:
        return source
    first = taken[0] if taken == list(range(taken[0], taken[-1] + 1)) else 0
    if source is not None:
        others = [d + 1 for d in range(source.dim() - 1) if d not in taken]
        source = source.any([d + 1 for d in taken], keepdim=True).permute(0, *others, *(d + 1 for d in taken))
        source = source.flatten(len(others) + 1)[..., 0] if others else source.reshape(source.shape[0])
        shape = [*source.shape[1 : first + 1], *[1] * wide, *source.shape[first + 1 :]]
        source = source.reshape(source.shape[0], *shape)
    after = output.dim() - first - wide
    parts = [source]
    for index in indices:
        if (mask := op.masks.of(index)) is not None:
            mask = mask if index.dtype not in (torch.bool, torch.uint8) else mask.flatten(1).any(1, keepdim=True)
            parts.append(mask.reshape(*mask.shape, *[1] * after))
    return united(parts, output.dim())


def _added_at(op: Operator, output: Tensor, number: int) -> Tensor | None:
    """index_add, index_copy."""
    source, index, own, dims = op.mask("source"), op.mask("index"), op.mask("self"), output.dim()
    if index is not None or dims == 0:
        return None
    return united([own, None if source is None else source.any(op.get("dim") % dims + 1, keepdim=True)], dims)


# --- attention and recurrence ---------------------------------------------------------------------------------------------
def _attention(op: Operator, output: Tensor, number: int) -> Tensor | None:
    """scaled_dot_product_attention, of whatever kernel: (batch, heads, time, features)."""
    if number:
        return None
    query, key, value = (op.mask(name) for name in ("query", "key", "value"))
    bias = next((t for name in ("attn_mask", "attn_bias") if (t := op.get(name)) is not None), None)
    if op.masks.of(bias) is not None:
        return None
    seen = united([None if key is None else key.any(-1, keepdim=True), value], output.dim())
    if seen is not None:
        if op.get("key").shape[1] != output.shape[1]:  # heads share theirs
            seen = seen.any(2, keepdim=True)
        seen = attended(_allowed(op, bias, output.shape[-2], op.get("key").shape[-2]), seen)
    return united([None if query is None else query.any(-1, keepdim=True), seen], output.dim())


def _allowed(op: Operator, bias: Any, queries: int, keys: int) -> Tensor:
    """Which query may see which key, (..., queries, keys): all that is not forbidden by a mask."""
    allowed = torch.ones(queries, keys, dtype=torch.bool, device="cpu")
    if op.get("is_causal"):
        allowed = allowed.tril()
    if bias is not None:
        forbidden = ((~bias) if bias.dtype == torch.bool else bias == -torch.inf).cpu()
        if bool(forbidden.any()) and op.masks.consult(bias):
            allowed = allowed & ~forbidden
    return allowed


def _recurrent(op: Operator, output: Tensor, number: int) -> Tensor | None:
    """A layer of an LSTM in one kernel: the outputs know all inputs so far."""
    mask = op.only_first()
    if number or mask is None or op.get("batch_sizes") or op.get("bidirectional"):
        return None
    mask = mask.any((2, 3), keepdim=True)  # time is first; were it second, in whatever version, nothing would be lost
    return so_far(mask.flip(1), 1).flip(1) if op.get("reverse") else so_far(mask, 1)


# --- losses ---------------------------------------------------------------------------------------------------------------
def _loss(op: Operator, output: Tensor, number: int) -> Tensor | None:
    return pointwise(op, output, number) if op.get("reduction") == 0 else None


def _nll(op: Operator, output: Tensor, number: int) -> Tensor | None:
    """Classes are the second dimension; or the first, of one example."""
    scores, target, x = op.mask("self"), op.mask("target"), op.get("self")
    if number or op.get("reduction") != 0 or op.mask("weight") is not None:
        return None
    return united([None if scores is None else scores.any(min(x.dim(), 2)), target], output.dim())


_ALL: dict[str, Rule] = RULES | {
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"), _batch_norm),
    **dict.fromkeys(("_batch_norm_with_update", "cudnn_batch_norm", "miopen_batch_norm"), _batch_norm),
    **dict.fromkeys([f"max_pool{n}d_with_indices" for n in (2, 3)] + [f"adaptive_max_pool{n}d" for n in (2, 3)], _window),
    **dict.fromkeys([f"avg_pool{n}d" for n in (2, 3)] + [f"_adaptive_avg_pool{n}d" for n in (2, 3)], _window),
    **dict.fromkeys([f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)], _window),
    **dict.fromkeys([f"upsample_nearest{n}d" for n in (1, 2, 3)], _window),
    **dict.fromkeys(("binary_cross_entropy", "binary_cross_entropy_with_logits", "smooth_l1_loss", "huber_loss"), _loss),
    **dict.fromkeys(("mse_loss", "soft_margin_loss"), _loss),
    **dict.fromkeys(("nll_loss_forward", "nll_loss2d_forward"), _nll),
    **dict.fromkeys(("index_add", "index_copy"), _added_at),
    **{"native_layer_norm": _layer_norm, "native_group_norm": _group_norm, "convolution": _convolution},
    **{"embedding": _embedding, "index_select": _index_select, "gather": _gather, "index": _index},
    **{"mkldnn_rnn_layer": _recurrent},
}
