"""The completions of every method, and log P(free half | clamped half) where the method has it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dither import chains, metrics, noise
from dither.experiments.inpainting.config import Config
from dither.experiments.inpainting.models import Models

CERTAIN = 1e-6  # a mean nearer than this to 0 or 1 counts as this
BLOCK = 10  # steps of chains whose means are held at a time
Half = tuple[Tensor, Callable[[], Tensor] | None]  # completions, and what computes log P(free | clamped)


@dataclass(frozen=True)
class Task:
    """Test images x (n, pixels) of labels y, the training images, and the models.

    clamps: name of a half -> (pixels,), True in it; classify: (n, pixels) -> (n,).
    """

    config: Config
    train: Tensor
    x: Tensor
    y: Tensor
    classify: Callable[[Tensor], Tensor]
    clamps: dict[str, Tensor]
    models: Models


@dataclass(frozen=True)
class Completed:
    """samples (n, k, pixels); log_prob: log P(free | clamped) of the image (n,), or None; seconds of the samples."""

    samples: Tensor
    log_prob: Tensor | None
    seconds: float


def complete(task: Task, method: str, clamp: Tensor, seed: int) -> Completed:
    """Completions of every image by a method; the seed alone decides them."""
    torch.manual_seed(seed)
    began = time.perf_counter()
    if method.startswith("chain"):
        samples, log_prob = _by_chain(task, method, clamp, seed)
    elif method.startswith("any-conditional"):
        samples, log_prob = _by_conditional(task, method, clamp)
    else:
        samples, log_prob = _by_training_images(task, method, clamp), None
    seconds = time.perf_counter() - began
    samples = samples.view(len(task.x), task.config.completions, -1)
    return Completed(samples, log_prob() if log_prob else None, seconds)


def _by_chain(task: Task, method: str, clamp: Tensor, seed: int) -> Half:
    x, config = task.x, task.config
    model = task.models.chains[method if method in task.models.chains else "chain"]
    shape = (len(x), config.completions)
    if method == "chain-from-data":
        others = task.train[torch.randint(len(task.train), shape, dtype=torch.int64, device="cpu")]
    else:
        others = torch.randint(2, (*shape, x.shape[1]), dtype=torch.int64, device="cpu").to(x.dtype)
    state = clamped_chains(model, torch.where(clamp, x.unsqueeze(1), others), clamp, config.burn_in, seed)
    return state.x, lambda: chain_log_prob(model, state, x, clamp, config.states, seed + 1)


def _by_conditional(task: Task, method: str, clamp: Tensor) -> Half:
    model, passes = task.models.any_conditional, 1 if method == "any-conditional" else task.config.passes
    assert model is not None, "the methods need it, so it was trained"
    samples = model.sample(task.x.repeat_interleave(task.config.completions, 0), clamp, passes)
    return samples, lambda: model.log_likelihood(task.x, None, clamp, passes)


def _by_training_images(task: Task, method: str, clamp: Tensor) -> Tensor:
    x, train, k = task.x, task.train, task.config.completions
    if method == "nearest":
        index = metrics.nearest(x[:, clamp], train[:, clamp], k=k)[1]
    else:
        index = torch.randint(len(train), (len(x), k), dtype=torch.int64, device="cpu")
    return torch.where(clamp, x.unsqueeze(1), train[index])


@torch.no_grad()
def clamped_chains(model: chains.Model, start: Tensor, clamp: Tensor, burn_in: int, seed: int) -> chains.State:
    """States of chains, burn_in steps from the start (n, k, pixels): (n k, pixels)."""
    return chains.run(model, start.flatten(0, 1), burn_in, thin=burn_in, clamp=clamp, seed=seed).state


@torch.no_grad()
def chain_log_prob(model: chains.Model, state: chains.State, x: Tensor, clamp: Tensor, steps: int, seed: int) -> Tensor:
    """log mean_h P(x_free | h) over `steps` further states h of the clamped chains of each row of x: (rows,).

    A lower bound, in expectation, of log P(x_free | x_clamped) of the chain, as `metrics.csl` is of log P(x).
    """
    rows, totals = x.repeat_interleave(len(state.x) // len(x), 0), []
    for index in range(0, steps, BLOCK):
        run = chains.run(model, state, min(BLOCK, steps - index), clamp=clamp, seed=noise.step_seed(seed, index))
        state, p = run.state, run.mean.clamp(CERTAIN, 1 - CERTAIN)
        terms = torch.where(rows > 0.5, p, 1 - p).log().masked_fill(clamp, 0)
        totals.append(terms.double().sum(-1).unflatten(1, (len(x), -1)))  # (block, rows, k)
    terms = torch.cat(totals).transpose(0, 1).flatten(1)
    return terms.logsumexp(1) - math.log(terms.shape[1])
