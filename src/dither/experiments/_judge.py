"""What a sampler of images is judged by: one consecutive chain for Parzen as the papers did it, many chains for the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dither import chains, metrics

SIGMA = 0.2  # the authors'
QUANTITIES = 8  # directions in which mixing is followed
CERTAIN = 1e-6  # a mean nearer than this to 0 or 1 is moved there, so that its logit is finite


@dataclass(frozen=True)
class Judge:
    """Data, and the feature space in which samples are compared with them.

    train, valid, test (n, units); features (n, units) -> (n, d); classify (n, units) -> (n,), None for data without classes.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    features: Callable[[Tensor], Tensor]
    classify: Callable[[Tensor], Tensor] | None
    classes: int

    def run(self, model: Any, start: Any, steps: int, **options: Any) -> chains.Samples:
        return chains.run(model, start, steps, cuda_graph=self.test.device.type == "cuda", **options)

    # --- Parzen ---------------------------------------------------------------------------------------------------------
    def parzen(self, model: Any, steps: int, seed: int) -> dict[str, float]:
        """The pinned protocol: the *means* along one chain of `steps` steps from a test image, sigma .2; and validation's."""
        means = self.run(model, self.test[:1], steps, seed=seed).mean.flatten(0, 1)
        found, valid = metrics.parzen(means, self.test, SIGMA), metrics.parzen(means, self.valid, SIGMA)
        return {"parzen": found.mean, "standard_error": found.standard_error, "parzen_valid": valid.mean}

    # --- many chains ----------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def chains(self, model: Any, *, count: int, steps: int, burn_in: int, thin: int, seed: int) -> Chains:
        """`count` chains that start at as many validation images."""
        state: Any = self.valid[:count]
        if burn_in:
            state = self.run(model, state, burn_in, thin=burn_in, seed=seed).state
        at_once = 2000 if self.test.device.type == "cpu" else 50_000  # samples
        kept, followed, labels, block = [], [], [], max(1, at_once // count)
        directions = self._directions()
        for index in range(0, steps, block):
            run = self.run(model, state, min(block, steps - index), seed=seed)
            state, means = run.state, run.mean
            flat = means.flatten(0, 1)
            followed.append((self.features(flat) @ directions).unflatten(0, means.shape[:2]))
            if self.classify:
                labels.append(self.classify(flat).unflatten(0, means.shape[:2]))
            kept += [m for step, m in enumerate(means, index) if step % thin == 0]
        return Chains(torch.stack(kept), torch.cat(followed), torch.cat(labels) if labels else None)

    def from_noise(self, model: Any, *, count: int, steps: int, seed: int) -> float:
        """The share of chains from random bits that look like data after `steps` steps: precision in the feature space."""
        bits = torch.randint(2, (count, self.test.shape[1]), generator=torch.Generator().manual_seed(seed))
        means = self.run(model, bits.to(self.test), steps, thin=steps, seed=seed).mean[0]
        return metrics.manifold(self.features(self.test), self.features(means)).precision

    def _directions(self) -> Tensor:
        features = self.features(self.train[:2000])
        return torch.linalg.svd(features - features.mean(0), full_matrices=False)[2][:QUANTITIES].T

    def mixing(self, found: Chains) -> dict[str, float | None]:
        """Of the chains; ess per 1000 steps of one chain, the worst of the directions."""
        mixed = metrics.mixing(found.followed.transpose(0, 1).double().cpu())
        steps = found.followed.shape[0] * found.followed.shape[1]
        row: dict[str, float | None] = {
            "r_hat": _least(-mixed.r_hat, -1),
            "ess_per_1000": _least(mixed.ess * 1000 / steps),
            "stuck": int(mixed.stuck.sum()),
        }
        if found.labels is not None:
            labels = found.labels.cpu()
            row["switches"] = float(metrics.class_switches(labels.T).mean())
            row["class_entropy"] = metrics.class_entropy(labels.flatten(), self.classes).relative
        return row

    def compare(self, samples: Tensor) -> dict[str, float]:
        """Samples (n, units) with the test set, in the feature space; and with the training set, for copies."""
        count = min(len(samples), len(self.test))
        real, made = self.features(self.test[:count]), self.features(samples[:count])
        kid = metrics.kid(made, real, subset_size=min(1000, count // 2))
        space = metrics.manifold(real, made)
        few = min(2000, count)
        copied = metrics.memorisation(samples[:few], self.train, self.test)
        return {
            "kid": kid.mean,
            "kid_error": kid.standard_error,
            "precision": space.precision,
            "recall": space.recall,
            "density": space.density,
            "coverage": space.coverage,
            "memorisation": copied.ratio,
            "copies": copied.copies,
        }

    def csl(self, means: Tensor, counts: tuple[int, ...]) -> list[dict[str, Any]]:
        """log mean_h P(x | h) of the thresholded test set over the first so many states, for factorised Bernoulli models."""
        logits = torch.logit(means.clamp(CERTAIN, 1 - CERTAIN))
        counts = (*(c for c in counts if c < len(means)), len(means))
        return metrics.csl(logits, (self.test > 0.5).to(means.dtype), counts=counts)


@dataclass(frozen=True)
class Chains:
    """means (kept steps, chains, units); followed (steps, chains, quantities); labels (steps, chains) or None."""

    means: Tensor
    followed: Tensor
    labels: Tensor | None


def _least(values: Tensor, sign: int = 1) -> float | None:
    """The worst of the directions; None where a chain is stuck."""
    return None if values.isnan().any() else sign * float(values.min())
