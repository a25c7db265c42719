"""Small random problems with known answers: nets whose every outcome can be summed, and costs that leave no place to hide.

A cost linear in a unit would make even straight-through unbiased, so every cost is a sum of a sine and a cube of mixed
units. Problems differ in depth, node types, weight sharing, repeated use of a node, local terms, differentiability,
saturation, and parameters inside the cost.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from dither.nodes import Bernoulli, Categorical, Node, NoisyReLU

_ANY = ("binary", "binary", "signed", "categorical")


@dataclass(frozen=True)
class Problem:
    """A model (float64), a closure that returns (batch,) or (batch, terms) costs, and what is special about it."""

    name: str
    model: nn.Module
    closure: Callable[[], Tensor]
    _: KW_ONLY
    traits: frozenset[str] = field(default_factory=frozenset)
    bits: float = 0.0  # log2 of the joint outcomes of one run, over all examples


class _Layered(nn.Module):
    """x -> linear -> node -> ... ; `shared` reuses the first square layer, `twice` calls every node on two linear maps."""

    def __init__(self, sizes: list[int], nodes: list[Node], shared: bool, twice: bool, generator: torch.Generator) -> None:
        super().__init__()

        def linear(a: int, b: int) -> nn.Linear:
            layer = nn.Linear(a, b).double()
            for p in layer.parameters():
                p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64, device="cpu") * 0.9
            return layer

        self.layers = nn.ModuleList()
        for a, b in pairwise(sizes):
            same = [m for m in self.layers if isinstance(m, nn.Linear) and (m.in_features, m.out_features) == (a, b)]
            self.layers.append(same[0] if shared and same else linear(a, b))
        self.nodes = nn.ModuleList(nodes)
        self.twice = twice
        self.readout = nn.Parameter(torch.randn(sizes[-1], 2, generator=generator, dtype=torch.float64, device="cpu"))

    def forward(self, h: Tensor) -> Tensor:
        for layer, node in zip(self.layers, self.nodes, strict=True):
            a = layer(h)
            if node.one_hot:
                h = node(a.unflatten(-1, (-1, a.shape[-1]))).flatten(-2)
            else:
                h = node(a)
            if self.twice:
                h = h + 0.5 * (node(a.roll(1, -1).unsqueeze(-2)).squeeze(-2) if node.one_hot else node(0.7 - a))
        return h


def random_problem(
    seed: int,
    *,
    max_bits: float = 8.0,
    depth: int | None = None,
    kinds: tuple[str, ...] = _ANY,
    without: tuple[str, ...] = (),
) -> Problem:
    """A problem drawn from the zoo, at most 2^max_bits joint outcomes a run (all examples together).

    depth, kinds of nodes: drawn too, unless given; without: traits that it must not have.
    """
    choose = random.Random(seed)
    for attempt in range(1000):
        generator = torch.Generator().manual_seed(seed * 1000 + attempt)
        layers, batch = choose.randint(1, 3), choose.randint(1, 2)
        layers = depth or layers
        traits = {t for t in ("shared", "twice", "local", "hard-cost", "saturated", "cost-parameters") if choose.random() < 0.3}
        traits -= set(without)
        sizes, nodes, units = [choose.randint(1, 3)], [], 0.0
        for _ in range(layers):
            kind = choose.choice(kinds)
            width = choose.randint(2, 3) if kind == "categorical" else choose.randint(1, 3)
            if "shared" in traits and choose.random() < 0.7 and (kind != "categorical" or sizes[-1] > 1):
                width = sizes[-1]
            sizes.append(width)
            nodes.append(Categorical() if kind == "categorical" else Bernoulli(values=(-1, 1) if kind == "signed" else (0, 1)))
            traits.add(kind)
            units += math.log2(width) if kind == "categorical" else width
        bits = units * batch * (2 if "twice" in traits else 1)
        if bits <= max_bits:
            break
    else:
        raise ValueError(f"max_bits is {max_bits}: no problem is that small, 1 is the least")
    model = _Layered(sizes, nodes, "shared" in traits, "twice" in traits, generator)
    x = torch.randn(batch, sizes[0], generator=generator, dtype=torch.float64, device="cpu")
    if "saturated" in traits:
        x = x * 20
    target = torch.randn(batch, 2, generator=generator, dtype=torch.float64, device="cpu")

    def closure() -> Tensor:
        h, readout = model(x), model.readout if "cost-parameters" in traits else model.readout.detach()
        z = h @ readout - target
        terms = torch.sin(1.3 * z) + 0.2 * z**3
        if "hard-cost" in traits:
            terms = terms.detach().mul(4).round().div(4) + (z.detach() > 0.3) + 0.1 * h.detach().argmax(-1, keepdim=True)
            terms = terms + 0 * readout.sum()
        if "local" in traits:
            return torch.stack((terms[:, 0], terms[:, 1], torch.exp(0.5 * h[:, 0])), 1)
        return terms.sum(1)

    traits.add(f"depth-{layers}")
    name = f"zoo-{seed}" if kinds == _ANY and depth is None else f"zoo-{seed}-{layers}-{kinds[0]}"
    return Problem(name, model, closure, traits=frozenset(traits), bits=bits)


def zoo(count: int, *, max_bits: float = 8.0, start: int = 0) -> list[Problem]:
    """`count` random problems."""
    return [random_problem(seed, max_bits=max_bits) for seed in range(start, start + count)]


def deep_problems() -> list[Problem]:
    """Nets of one to three layers of one kind of node, few enough units for estimators with several coupled runs."""
    return [
        random_problem(seed, max_bits=bits, depth=depth, kinds=kinds, without=("twice", "hard-cost", "saturated"))
        for kinds in (("binary", "signed"), ("categorical",))
        for depth, bits in ((1, 2.0), (2, 3.2), (3, 4.0))
        for seed in (0, 1)
    ]


def rectifier_problem() -> Problem:
    """A noisy rectifier before a binary unit: the pathwise and the score gradient meet (quadrature, not enumeration)."""
    generator = torch.Generator().manual_seed(7)
    model = _Layered([2, 1, 2], [NoisyReLU(scale=0.8), Bernoulli()], False, False, generator)
    x = torch.randn(1, 2, generator=generator, dtype=torch.float64, device="cpu")

    def closure() -> Tensor:
        h = model(x)
        return torch.sin(1.3 * h.sum(1)) + 0.2 * (h[:, 0] - 0.6) ** 3 * (1 + h[:, 1])

    return Problem("rectifier", model, closure, traits=frozenset({"continuous"}), bits=9.0)


def smooth_problems() -> list[Problem]:
    """Two units at most, small logits and a gentle cost: few enough quadrature points do for estimators that use the value of
    the noise (relaxations). One and two layers, and two examples."""
    one, two = [2, 1], [2, 2]
    shapes: dict[str, tuple[list[int], list[Node], int]] = {
        "one binary unit": (one, [Bernoulli()], 2),
        "one signed unit": (one, [Bernoulli(values=(-1, 1))], 1),
        "two binary units": (two, [Bernoulli()], 1),
        "two layers": ([2, 1, 1], [Bernoulli(values=(-1, 1)), Bernoulli()], 1),
        "two categories": (two, [Categorical()], 2),
        "categorical layers": ([2, 2, 2], [Categorical(), Categorical()], 1),
        "categorical and binary": ([2, 2, 1], [Categorical(), Bernoulli()], 1),
    }
    return [_smooth_problem(name, *shape) for name, shape in shapes.items()]


def _smooth_problem(name: str, sizes: list[int], nodes: list[Node], batch: int) -> Problem:
    generator = torch.Generator().manual_seed(len(name))
    model = _Layered(sizes, nodes, False, False, generator)
    for p in model.parameters():
        p.data = 0.6 * torch.tanh(p.data)
    x = torch.randn(batch, sizes[0], generator=generator, dtype=torch.float64, device="cpu")

    def closure() -> Tensor:
        z = model(x) @ model.readout
        return torch.stack((torch.sin(z[:, 0] - 0.6), 0.5 * (z[:, 1] + 0.3) ** 2), 1)

    return Problem(f"smooth: {name}", model, closure, traits=frozenset({"smooth", f"depth-{len(nodes)}"}), bits=2.0)
