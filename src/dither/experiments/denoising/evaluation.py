"""The metrics of a sampler of images: one chain for Parzen, as the papers have it, and many chains for the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dither import chains, metrics
from dither.data import Dataset
from dither.tables import Row

SIGMA = 0.2  # the authors'
QUANTITIES = 8  # directions in which mixing is followed
CERTAIN = 1e-6  # a mean nearer than this to 0 or 1 is moved there, so that its logit is finite
COMPONENTS = 32  # principal ones, the features of data without a feature net


@dataclass(frozen=True)
class Chains:
    """What chains visited; steps are those after the burn-in.

    means (every `thin`-th step, chains, units); followed (steps, chains, quantities); labels (steps, chains) or None.
    """

    means: Tensor
    followed: Tensor
    labels: Tensor | None


@dataclass(frozen=True)
class Evaluation:
    """Data, and the feature space in which samples are compared with them.

    train, valid, test (n, units); features (n, units) -> (n, d); classify (n, units) -> (n,), None without classes.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    features: Callable[[Tensor], Tensor]
    classify: Callable[[Tensor], Tensor] | None
    classes: int

    @classmethod
    def of(cls, dataset: Dataset, device: str = "cpu") -> Evaluation:
        """With the stored feature net of the data set, or where it has none, principal components as features."""
        train, valid, test = (part.x.to(device) for part in (dataset.train, dataset.valid, dataset.test))
        if dataset.name in ("mnist", "digits"):
            net = metrics.feature_net(dataset.name).to(device)
            return cls(train, valid, test, net.features, net.classify, dataset.classes)
        mean = train.mean(0)
        basis = torch.linalg.svd(train - mean, full_matrices=False)[2][:COMPONENTS].T
        return cls(train, valid, test, lambda x: (x - mean) @ basis, None, 1)

    def run(self, model: chains.Model, start: Tensor | chains.State, steps: int, seed: int, thin: int = 1) -> chains.Samples:
        return chains.run(model, start, steps, thin=thin, seed=seed, cuda_graph=self.test.device.type == "cuda")

    # --- Parzen -------------------------------------------------------------------------------------------------------
    def parzen(self, model: chains.Model, steps: int, seed: int) -> Row:
        """The protocol of the papers: the *means* along one chain of `steps` steps from a test image, sigma .2.

        Of the test part, and of the validation part.
        """
        means = self.run(model, self.test[:1], steps, seed).mean.flatten(0, 1)
        test, valid = metrics.parzen(means, self.test, SIGMA), metrics.parzen(means, self.valid, SIGMA)
        return {"parzen": test.mean, "standard_error": test.standard_error, "parzen_valid": valid.mean}

    # --- many chains --------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def run_chains(self, model: chains.Model, *, count: int, steps: int, burn_in: int, thin: int, seed: int) -> Chains:
        """`count` chains that start at as many validation images."""
        state: Tensor | chains.State = self.valid[:count]
        if burn_in:
            state = self.run(model, state, burn_in, seed, thin=burn_in).state
        at_once = 2000 if self.test.device.type == "cpu" else 50_000  # samples
        thinned, followed, labels, block = [], [], [], max(1, at_once // count)
        directions = self._directions()
        for index in range(0, steps, block):
            run = self.run(model, state, min(block, steps - index), seed)
            state, means = run.state, run.mean
            flat = means.flatten(0, 1)
            followed.append((self.features(flat) @ directions).unflatten(0, means.shape[:2]))
            if self.classify:
                labels.append(self.classify(flat).unflatten(0, means.shape[:2]))
            thinned += [m for step, m in enumerate(means, index) if step % thin == 0]
        return Chains(torch.stack(thinned), torch.cat(followed), torch.cat(labels) if labels else None)

    def from_noise(self, model: chains.Model, *, count: int, steps: int, seed: int) -> float:
        """The share of chains from random bits that look like data after `steps` steps.

        It is the precision in the feature space.
        """
        bits = torch.randint(
            2, (count, self.test.shape[1]), generator=torch.Generator().manual_seed(seed), dtype=torch.int64, device="cpu"
        )
        means = self.run(model, bits.to(self.test), steps, seed, thin=steps).mean[0]
        return metrics.manifold(self.features(self.test), self.features(means)).precision

    def _directions(self) -> Tensor:
        features = self.features(self.train[:2000])
        return torch.linalg.svd(features - features.mean(0), full_matrices=False)[2][:QUANTITIES].T

    def mixing(self, visited: Chains) -> Row:
        """Of the chains; ess per 1000 steps of one chain.

        R-hat and ess are the worst of the directions, None where a chain is stuck.
        """
        mixed = metrics.mixing(visited.followed.double().cpu(), first="steps")
        steps = visited.followed.shape[0] * visited.followed.shape[1]
        row: Row = {
            "r_hat": None if mixed.r_hat.isnan().any() else float(mixed.r_hat.max()),
            "ess_per_1000": None if mixed.ess.isnan().any() else float((mixed.ess * 1000 / steps).min()),
            "stuck": int(mixed.stuck.sum()),
        }
        if visited.labels is not None:
            labels = visited.labels.cpu()
            row["switches"] = float(metrics.class_switches(labels, first="steps").mean())
            row["class_entropy"] = metrics.class_entropy(labels.flatten(), self.classes).relative
        return row

    def compare(self, samples: Tensor) -> Row:
        """Samples (n, units) with the test set, in the feature space; and with the training set, for copies."""
        count = min(len(samples), len(self.test))
        real, sampled = self.features(self.test[:count]), self.features(samples[:count])
        kid = metrics.kid(sampled, real, subset_size=min(1000, count // 2))
        space = metrics.manifold(real, sampled)
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

    def csl(self, means: Tensor, counts: tuple[int, ...]) -> list[Row]:
        """log mean_h P(x | h) of the thresholded test set over the first states, as many as each of `counts`.

        For models whose P(x | h) is a product of Bernoulli distributions.
        """
        logits = torch.logit(means.clamp(CERTAIN, 1 - CERTAIN))
        counts = (*(c for c in counts if c < len(means)), len(means))
        return metrics.csl(logits, (self.test > 0.5).to(means.dtype), counts=counts)
