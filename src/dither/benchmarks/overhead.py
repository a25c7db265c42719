"""What dither costs beside the same estimator written by hand in plain torch: an autoencoder 784-200-784, K = 10.

One step is forward and backward, without the optimizer's update, which is the same for all. The hand-written ones are what
one would write for this one net: the encoder once, K samples from one call of torch.rand in a leading dimension, one decoder
call for all of them, a surrogate loss. `own_noise` is the same code with dither's keyed noise in the place of torch.rand: from
one seed both then make the very same gradient, and the two ratios tell the price of that noise from that of all else.

With one thread its own processor time is taken, in which a busy machine's waiting does not count; with more, the time of day.
`times_*` are medians of ratios within one turn, `least_times_*` ratios of the shortest steps, which a busy machine disturbs
less. Peers, storchastic and Pyro (pip install "dither[bench]"), are measured where they are installed, after the rest, because
storchastic changes torch when it is imported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from dither.experiments._timing import ratio

Step = Callable[[], Any]  # forward and backward of one batch


@dataclass(frozen=True)
class Config:
    """The time of one step with dither's estimators, against the same estimators written by hand."""

    methods: tuple[str, ...] = ("score-leave-one-out", "score-mean", "disarm", "straight-through")
    samples: int = 10
    batch_size: int = 100
    pixels: int = 784
    latents: int = 200
    repeats: int = 60
    peers: bool = True
    """Also measure storchastic and Pyro, if they are installed."""
    threads: int = 1
    seed: int = 0


def run(config: Config, folder: Path, progress: Callable[[str], Any] = print) -> dict[str, Any]:
    """{"rows": a row per method and implementation}: median milliseconds of a step, and times those of the hand-written
    one. Implementations of a method are timed in turn, so that a busy machine disturbs all alike."""
    import torch

    unknown = [name for name in config.methods if name not in HAND]
    if unknown:
        raise ValueError(f"there is no method {', '.join(map(repr, unknown))}; choose among {', '.join(HAND)}")
    if config.samples < 2 or config.samples % 2:
        raise ValueError(f"samples is {config.samples}: pairs need an even number, such as 10")
    torch.set_num_threads(config.threads)
    rows = []
    for method in config.methods:
        found = _compared(method, implementations(config, method), config)
        rows += found
        progress(f"{method}: {found[0]['times_hand']} times the hand-written one")
    rows += _peers(config, progress) if config.peers else []
    return {"rows": rows}


def implementations(config: Config, method: str) -> dict[str, Step]:
    """dither, by hand, and by hand with dither's noise, on the same net and batch."""
    import torch

    model, x = problem(config)
    estimator = built(method, model, config.samples)

    def step() -> None:
        estimator(lambda: model.cost(x)).backward()

    def torch_noise(samples: int) -> Any:
        return torch.rand(samples, config.batch_size, config.latents)

    draws = {"hand": torch_noise, "own_noise": keyed(x, config)}
    by_hand = {name: Hand(model, x, config.samples, draw) for name, draw in draws.items()}
    return {"dither": cleared(model, step)} | {
        name: cleared(model, lambda hand=hand: HAND[method](hand).backward()) for name, hand in by_hand.items()
    }


def problem(config: Config) -> tuple[Any, Any]:
    import torch

    from dither.models.vae import BinaryVAE

    torch.manual_seed(config.seed)
    model = BinaryVAE((config.pixels, config.latents))
    return model, torch.rand(config.batch_size, config.pixels).bernoulli()


def built(method: str, model: Any, samples: int) -> Any:
    import dither

    match method:
        case "score-leave-one-out":
            return dither.ScoreFunction(model, "leave-one-out", samples)
        case "score-mean":
            return dither.ScoreFunction(model, "mean", samples)
        case "disarm":
            return dither.DisARM(model, samples=samples // 2)
    return dither.StraightThrough(model, samples=samples)


def cleared(model: Any, step: Step) -> Step:
    """The step, with gradients that start from None."""

    def run() -> None:
        for parameter in model.parameters():
            parameter.grad = None
        step()

    return run


def keyed(x: Any, config: Config) -> Callable[[int], Any]:
    """dither's noise as its estimators draw it: a seed from torch's generator, and a key for each sample."""
    import torch

    from dither import noise

    def draw(samples: int) -> Any:
        seed, shape = noise.draw_seed(), (config.batch_size, config.latents)
        one = torch.func.vmap(lambda k: noise.uniform(seed, 0, k, shape, x), randomness="same")
        return one(torch.arange(samples))

    return draw


# --- by hand ------------------------------------------------------------------------------------------------------------
class Hand:
    """What the hand-written steps share: the net, its batch, and where uniforms (samples, batch, latents) come from."""

    def __init__(self, model: Any, x: Any, samples: int, draw: Callable[[int], Any]) -> None:
        self.model, self.x, self.samples, self.draw = model, x, samples, draw
        self.average: Any = None

    def encoded(self) -> tuple[Any, Any]:
        """Logits, and KL(q || p) per example."""
        import torch
        import torch.nn.functional as F

        logits = self.model.encoder(self.x)
        kl = torch.sigmoid(logits) * logits - F.softplus(logits) + 0.6931471805599453
        return logits, kl.sum(1)

    def distortion(self, z: Any) -> Any:
        """z (samples, batch, latents) -> (samples, batch)."""
        import torch.nn.functional as F

        logits = self.model.decoder(z)
        return ((1 - self.x) * logits).sum(-1) - F.logsigmoid(logits).sum(-1)


def _score(hand: Hand, baseline: Callable[[Any], Any]) -> Any:
    import torch.nn.functional as F

    logits, kl = hand.encoded()
    z = (hand.draw(hand.samples) < logits.sigmoid()).to(logits.dtype)
    costs = kl + hand.distortion(z)
    log_q = (z * logits - F.softplus(logits)).sum(-1)
    fixed = costs.detach()
    return (costs + (fixed - baseline(fixed)) * log_q).mean()


def _leave_one_out(hand: Hand) -> Any:
    return _score(hand, lambda costs: (costs.sum(0) - costs) / (hand.samples - 1))


def _running_mean(hand: Hand) -> Any:
    def baseline(costs: Any) -> Any:
        total, weight = hand.average or (0.0, 0.0)
        hand.average = (0.99 * total + 0.01 * costs.mean(), 0.99 * weight + 0.01)
        return total / weight if weight else 0.0

    return _score(hand, baseline)


def _disarm(hand: Hand) -> Any:
    import torch

    logits, kl = hand.encoded()
    p = logits.sigmoid().detach()
    u = hand.draw(hand.samples // 2)
    z = torch.cat((u < p, 1 - u < p)).to(logits.dtype)
    costs = kl + hand.distortion(z)
    (b, turned), (f, of_turned) = z.chunk(2), costs.detach().chunk(2)
    slope = 0.5 * (f - of_turned).unsqueeze(-1) * (b - turned) * torch.maximum(p, 1 - p)
    return costs.mean() + (slope.mean(0) * logits).sum() / len(logits)


def _straight_through(hand: Hand) -> Any:
    logits, kl = hand.encoded()
    p = logits.sigmoid()
    z = (hand.draw(hand.samples) < p).to(logits.dtype) + (p - p.detach())
    return (kl + hand.distortion(z)).mean()


HAND: dict[str, Callable[[Hand], Any]] = {
    "score-leave-one-out": _leave_one_out,
    "score-mean": _running_mean,
    "disarm": _disarm,
    "straight-through": _straight_through,
}


# --- timing -------------------------------------------------------------------------------------------------------------
def _compared(method: str, steps: Mapping[str, Step], config: Config) -> list[dict[str, Any]]:
    """Ratios are medians of those within one turn, which a slow spell of the machine leaves alone."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    clock = time.thread_time if config.threads == 1 else time.perf_counter
    for repeat in range(config.repeats + 3):  # the first ones warm up
        for name, step in steps.items():
            began = clock()
            step()
            if repeat >= 3:
                times[name].append(1e3 * (clock() - began))
    return [
        {"method": method, "implementation": name, "milliseconds": round(median(found), 2), "least": round(min(found), 2)}
        | {f"times_{other}": ratio(found, times[other]) for other in ("hand", "own_noise") if other in times}
        | {
            f"least_times_{other}": round(min(found) / min(times[other]), 3)
            for other in ("hand", "own_noise")
            if other in times
        }
        for name, found in times.items()
    ]


def _peers(config: Config, progress: Callable[[str], Any]) -> list[dict[str, Any]]:
    from dither.experiments import _peers

    rows = []
    for name, (method, build) in _peers.PEERS.items():
        try:
            step = build(config)
        except ImportError as error:
            progress(f"{name} is left out: {error}")
            continue
        steps = implementations(config, method)
        rows += _compared(method, {name: step, **{n: steps[n] for n in ("dither", "hand")}}, config)[:1]
        progress(f"{name}: {rows[-1]['times_hand']} times the hand-written one")
    return rows
