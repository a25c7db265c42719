"""The step of `bench_overhead` by other libraries, written as their own examples write it. Imported only when measured."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any


def pyro_step(config: Any) -> Callable[[], Any]:
    """TraceGraph_ELBO with K vectorised particles and its running-mean baseline. Pyro credits log q - log p, which it samples,
    where the others have the exact KL."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pyro  # type: ignore[import-not-found]
        from pyro import distributions as dist  # type: ignore[import-not-found]
        from pyro.infer import TraceGraph_ELBO  # type: ignore[import-not-found]

    from dither.experiments.bench_overhead import cleared, problem

    net, x = problem(config)
    baseline = {"baseline": {"use_decaying_avg_baseline": True, "baseline_beta": 0.99}}

    def model(x: Any) -> None:
        pyro.module("decoder", net.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=torch.zeros(len(x), config.latents)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=net.decoder(z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        pyro.module("encoder", net.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=net.encoder(x)).to_event(1), infer=baseline)

    pyro.clear_param_store()
    pyro.enable_validation(False)
    elbo = TraceGraph_ELBO(num_particles=config.samples, vectorize_particles=True, max_plate_nesting=1)
    return cleared(net, lambda: elbo.loss_and_grads(model, guide, x))


def storch_step(config: Any) -> Callable[[], Any]:
    """storch.method.ScoreFunction with the mean of the other samples as baseline, the exact KL as a cost of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import storch  # type: ignore[import-not-found]
    import torch
    from torch.distributions import Bernoulli, kl_divergence

    from dither.experiments.bench_overhead import cleared, problem

    net, data = problem(config)
    method = storch.method.ScoreFunction("z", n_samples=config.samples, baseline_factory="batch_average")

    def step() -> None:
        x = storch.denote_independent(data, 0, "data")
        q = Bernoulli(logits=net.encoder(x))
        z = method(q)
        storch.add_cost(kl_divergence(q, Bernoulli(logits=torch.zeros_like(q.logits))).sum(-1), "kl")
        logits = net.decoder(z)
        distortion = torch.nn.functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
        storch.add_cost(distortion.sum(-1), "distortion")
        storch.backward()

    return cleared(net, step)


# name -> (the method whose hand-written step it is compared with, builder of its step). Storchastic is last: it changes torch.
PEERS: dict[str, tuple[str, Callable[[Any], Callable[[], Any]]]] = {
    "pyro": ("score-mean", pyro_step),
    "storchastic": ("score-leave-one-out", storch_step),
}
