"""What `gsn_inpainting` measures: the completions of every method, and what they are worth."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from dither import chains, metrics, noise
from dither.experiments._inpainting_models import autocast

Made = tuple[Tensor, Callable[[], Tensor] | None]  # completions, and what computes log P(free | clamped)
MEANS = ("agreement", "labels", "distance", "error", "white")
CERTAIN = 1e-6  # a mean nearer than this to 0 or 1 counts as this
BLOCK = 10  # steps of chains whose means are held at a time


# --- completions --------------------------------------------------------------------------------------------------------
@torch.no_grad()
def clamped_chains(model: Any, start: Tensor, clamp: Tensor, burn_in: int, seed: int) -> Any:
    """States of chains, burn_in steps from the start (n, k, pixels): (n k, pixels)."""
    return chains.run(model, start.flatten(0, 1), burn_in, thin=burn_in, clamp=clamp, seed=seed).state


@torch.no_grad()
def chain_log_prob(model: Any, state: Any, x: Tensor, clamp: Tensor, steps: int, seed: int) -> Tensor:
    """log mean_h P(x_free | h) over `steps` further states h of the clamped chains of each row of x: (rows,).

    A lower bound, in expectation, of log P(x_free | x_clamped) of the chain, as `metrics.csl` is of log P(x).
    """
    rows, totals = x.repeat_interleave(len(state.x) // len(x), 0), []
    for index in range(0, steps, BLOCK):
        run = chains.run(model, state, min(BLOCK, steps - index), clamp=clamp, seed=noise.step_seed(seed, index))
        state, p = run.state, run.mean.clamp(CERTAIN, 1 - CERTAIN)
        terms = torch.where(rows > 0.5, p, 1 - p).log().masked_fill(clamp, 0)
        totals.append(terms.double().sum(-1).unflatten(1, (len(x), -1)))  # (block, rows, k)
    found = torch.cat(totals).transpose(0, 1).flatten(1)
    return found.logsumexp(1) - math.log(found.shape[1])


class Task:
    """Test images x (n, pixels) of labels y, halves of them clamped, and everything that is measured of completions."""

    def __init__(
        self,
        config: Any,
        train: Tensor,
        x: Tensor,
        y: Tensor,
        classify: Callable[[Tensor], Tensor],
        clamps: dict[str, Tensor],
        models: dict[str, Any],
    ) -> None:
        self.config, self.train, self.x, self.y, self.clamps = config, train, x, y, clamps
        self.classify, self.models, self.seconds = classify, models, 0.0

    def complete(self, method: str, clamp: Tensor, seed: int) -> tuple[Tensor, Tensor | None, float]:
        """Completions (n, k, pixels); log P(free | clamped) of the image (n,), if the method has it; seconds of the former."""
        torch.manual_seed(seed)
        began, family = time.perf_counter(), method.partition("-")[0]
        make = {"chain": self._chained, "question": self._answered}.get(family, self._borrowed)
        drawn, log_prob = make(method, clamp, seed)
        seconds = time.perf_counter() - began
        return drawn.view(len(self.x), self.config.completions, -1), log_prob() if log_prob else None, seconds

    def _chained(self, method: str, clamp: Tensor, seed: int) -> Made:
        model, x, config = self.models[method if method in self.models else "chain"], self.x, self.config
        shape = (len(x), config.completions)
        if method != "chain-from-data":
            others = torch.randint(2, (*shape, x.shape[1])).to(x.dtype)
        else:
            others = self.train[torch.randint(len(self.train), shape)]
        state = clamped_chains(model, torch.where(clamp, x.unsqueeze(1), others), clamp, config.burn_in, seed)
        return state.x, lambda: chain_log_prob(model, state, x, clamp, config.states, seed + 1)

    def _answered(self, method: str, clamp: Tensor, seed: int) -> Made:
        model, passes = self.models["question"], 1 if method == "question" else self.config.passes
        drawn = model.sample(self.x.repeat_interleave(self.config.completions, 0), clamp, passes)
        return drawn, lambda: model.log_likelihood(self.x, None, clamp, passes)

    def _borrowed(self, method: str, clamp: Tensor, seed: int) -> Made:
        x, train, k = self.x, self.train, self.config.completions
        nearest = method == "nearest"
        found = metrics.nearest(x[:, clamp], train[:, clamp], k)[1] if nearest else torch.randint(len(train), (len(x), k))
        return torch.where(clamp, x.unsqueeze(1), train[found]), None

    @torch.no_grad()
    def measured(self, method: str, progress: Callable[[str], None]) -> tuple[dict[str, Any], list[Tensor]]:
        """(the row of a method; the completions of the images shown, of one half each)."""
        config, parts, shown = self.config, [], []
        began, spent = time.perf_counter(), 0.0
        for index, (name, clamp) in enumerate(self.clamps.items()):
            with autocast(config):
                drawn, log_prob, seconds = self.complete(method, clamp, noise.step_seed(config.seed, index))
            parts.append({"part": name, "log_prob": log_prob} | self.judged(drawn, clamp))
            spent += seconds
            shown += [(i, drawn[i]) for i in range(index, config.shown, len(self.clamps))]
        self.seconds += time.perf_counter() - began
        row = {"method": method, **self.summary(parts)}
        row["ms"] = 1000 * spent / (len(self.clamps) * len(self.x) * config.completions)
        nats = "" if row["nats"] is None else f", {row['nats']:.1f} nats"
        progress(f"{method}: agreement {row['agreement']:.3f}{nats}, {row['ms']:.2f} ms a completion")
        return row, [picture for _, picture in sorted(shown, key=lambda pair: pair[0])]

    def judged(self, drawn: Tensor, clamp: Tensor) -> dict[str, Tensor]:
        """MEANS of each image (n,); drawn (n, k, pixels)."""
        labels = self.classify(drawn.flatten(0, 1)).view(drawn.shape[:2])
        distinct = torch.zeros(len(labels), int(labels.max()) + 1).scatter_(1, labels, 1.0).sum(1)
        free = drawn[:, :, ~clamp].double()
        # Two binary pixels of mean p differ with probability 2 p (1 - p): twice the variance, which is unbiased.
        distance = 2 * free.var(1).mean(1) if drawn.shape[1] > 1 else free.new_zeros(len(free))
        error = (free - self.x[:, None, ~clamp]).abs().mean((1, 2))
        agreement = (labels == self.y.unsqueeze(1)).double().mean(1)
        white = (free.mean(2) > 0.5).double().mean(1)
        return dict(zip(MEANS, (agreement, distinct, distance, error, white), strict=True))

    def summary(self, parts: list[dict[str, Any]]) -> dict[str, Any]:
        """Means over images and halves; standard errors over images, of which the halves are no independent ones."""
        of = {key: torch.stack([part[key] for part in parts]).mean(0) for key in MEANS}
        row: dict[str, Any] = {"agreement": float(of["agreement"].mean()), "agreement_error": standard_error(of["agreement"])}
        row |= {part["part"]: float(part["agreement"].mean()) for part in parts}
        row |= {key: float(of[key].mean()) for key in MEANS[1:]}
        return row | nats([part["log_prob"] for part in parts])

    def original(self) -> dict[str, Any]:
        """The images themselves: the classifier's own agreement with the labels."""
        return {"method": "original", **self.summary([self.reference(name, self.x) for name in self.clamps])}

    def given(self) -> dict[str, Any]:
        """The given half alone, the rest 0: what the classifier knows without any completion."""
        parts = [self.reference(name, self.x * clamp) for name, clamp in self.clamps.items()]
        return {"method": "given half", **self.summary(parts)}

    def reference(self, name: str, x: Tensor) -> dict[str, Any]:
        found = self.judged(x.unsqueeze(1), self.clamps[name])
        return {"part": name, "log_prob": None} | found

    @torch.no_grad()
    def along_orders(self, progress: Callable[[str], None]) -> dict[str, Any]:
        """-log P(free half | given half) of the network for any question, one pixel after the other; its spread over orders."""
        began, parts, spreads = time.perf_counter(), [], []
        for index, clamp in enumerate(self.clamps.values()):
            torch.manual_seed(noise.step_seed(self.config.seed, index))
            with autocast(self.config):
                orders = [self.models["question"].log_likelihood(self.x, None, clamp) for _ in range(self.config.orders)]
            parts.append(torch.stack(orders).mean(0))
            if self.config.orders > 1:
                spreads.append(float(torch.stack(orders).double().var(0).mean()))
        self.seconds += time.perf_counter() - began
        row = {"method": "question, pixel by pixel", **nats(parts), "spread": fmean(spreads) ** 0.5 if spreads else None}
        progress(f"pixel by pixel: {row['nats']:.1f} nats")
        return row

    def picture(self, method: str, shown: list[Tensor], shape: tuple[int, int]) -> Any:
        """A row for each image shown: original, given half, completions."""
        from dither.plots import images

        count, masks = len(shown), list(self.clamps.values())
        clamp = torch.stack([masks[i % len(masks)] for i in range(count)])
        labels = [f"{int(label)}" for label in self.y[:count]]
        drawn = torch.stack(shown)
        return images.inpainting(self.x[:count], clamp, drawn, shape=shape, labels=labels, title=method).figure


def nats(log_probs: list[Tensor | None]) -> dict[str, float | None]:
    if any(part is None for part in log_probs):
        return {"nats": None, "nats_error": None}
    mean = -torch.stack([part.double() for part in log_probs if part is not None]).mean(0)
    return {"nats": float(mean.mean()), "nats_error": standard_error(mean)}


def standard_error(values: Tensor) -> float:
    return float(values.double().std()) / math.sqrt(len(values))
