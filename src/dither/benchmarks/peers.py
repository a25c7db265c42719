"""The step of `overhead` by other libraries, written as their own examples write it.

They are imported when they are measured: they are optional, and Storchastic changes torch when it is imported.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli, kl_divergence

from dither.benchmarks.by_hand import cleared
from dither.benchmarks.timing import Step
from dither.models.vae import BinaryVAE

Build = Callable[[BinaryVAE, Tensor, int], Step]  # net, batch, samples -> step


def pyro_step(net: BinaryVAE, x: Tensor, samples: int) -> Step:
    """TraceGraph_ELBO with K vectorised particles and its running-mean baseline.

    Pyro credits log q - log p, which it samples, where the others have the exact KL.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pyro  # type: ignore[import-not-found]
        from pyro import distributions as dist  # type: ignore[import-not-found]
        from pyro.infer import TraceGraph_ELBO  # type: ignore[import-not-found]

    baseline: Any = {"baseline": {"use_decaying_avg_baseline": True, "baseline_beta": 0.99}}
    latents = net.encoder(x[:1]).shape[1]

    def model(x: Tensor) -> None:
        pyro.module("decoder", net.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample(
                "z", dist.Bernoulli(logits=torch.zeros(len(x), latents, dtype=torch.float32, device="cpu")).to_event(1)
            )
            pyro.sample("x", dist.Bernoulli(logits=net.decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", net.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=net.encoder(x)).to_event(1), infer=baseline)

    pyro.clear_param_store()
    pyro.enable_validation(False)
    elbo = TraceGraph_ELBO(num_particles=samples, vectorize_particles=True, max_plate_nesting=1)
    return cleared(net, lambda: elbo.loss_and_grads(model, guide, x))


def storch_step(net: BinaryVAE, data: Tensor, samples: int) -> Step:
    """storch.method.ScoreFunction with the mean of the other samples as baseline, the exact KL as a cost of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import storch as library  # type: ignore[import-not-found]

    storch: Any = library  # its types are not exported
    method = storch.method.ScoreFunction("z", n_samples=samples, baseline_factory="batch_average")

    def step() -> None:
        x = storch.denote_independent(data, 0, "data")
        q = Bernoulli(logits=net.encoder(x))
        z = method(q)
        storch.add_cost(kl_divergence(q, Bernoulli(logits=torch.zeros_like(q.logits))).sum(-1), "kl")
        logits = net.decoder(z)
        distortion = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
        storch.add_cost(distortion.sum(-1), "distortion")
        storch.backward()

    return cleared(net, step)


# name -> (the method whose hand-written step is its reference, builder of its step). Storchastic changes torch: it is last.
PEERS: dict[str, tuple[str, Build]] = {
    "pyro": ("score-function:mean", pyro_step),
    "storchastic": ("score-function:leave-one-out", storch_step),
}
