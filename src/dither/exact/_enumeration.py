"""A noise source for oracles: it walks through every combination of the parts of the noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from dither.exact._oracle import Oracle
from dither.exact._path import AVERAGE, DEPENDS, CannotEnumerate, Path
from dither.nodes import ClosureError, Node, Rows, present_rows

MAX_OUTCOMES = 1 << 16


class TooManyOutcomes(CannotEnumerate):
    """There are more joint outcomes than allowed. `outcomes`: how many."""

    def __init__(self, outcomes: int, draws: list[tuple[int, int]], limit: int) -> None:
        units = ", ".join(f"{count} with {parts} outcomes" for parts, count in draws)
        size = (
            str(outcomes) if outcomes < 10**7 else f"{outcomes:.1e}" if outcomes < 10**300 else f"2^{outcomes.bit_length() - 1}"
        )
        super().__init__(
            f"{size} joint outcomes (units drawn: {units}) exceed max_outcomes={limit}: enumerate a smaller net or batch, or "
            f"{AVERAGE}"
        )
        self.outcomes = outcomes


class Enumeration:
    """A noise source that walks through the parts of a partition: first it notes what is sampled (layout), then it replays
    chosen parts, or those of a path.

    Noise that an estimator asks for twice by one key is the same noise. Where the second request is for other logits, whose
    threshold may divide the interval of the first, that interval is divided once more (`_refined`).
    """

    def __init__(self, joint: bool, estimator: Any = None) -> None:
        self.joint = joint  # whether examples are enumerated jointly, or share the combinations
        self.estimator, self.oracle = estimator, getattr(estimator, "oracle", Oracle())
        self.layout: list[tuple[int, int]] = []
        self.replaying = False
        self.row: Tensor | None = None
        self.path: Path | None = None

    def start(self, row: Tensor | Path | None) -> None:
        self.path = row if isinstance(row, Path) else None
        self.row = row if isinstance(row, Tensor) else None
        self.replaying, self.position, self.call = self.row is not None, 0, 0
        self._weights: list[Tensor] = []
        self._of_rows: list[tuple[Tensor, Rows, float]] = []
        self._noise: dict[Any, Tensor] = {}
        self._kinds: dict[Any, tuple[str, tuple[int, ...]]] = {}
        self._between: dict[Any, tuple[Tensor, Tensor]] = {}
        if not self.replaying:
            self.layout = []

    def __call__(self, node: Node, logits: Tensor, call: Any = None, stream: int = 0, sample: Any = 0) -> Tensor:
        """The noise of a node. call: an estimator's, for noise of its own key (site, stream, sample)."""
        if call is None:
            return self._pick(*node.partition(logits))
        key = (call.site, stream, int(sample))
        kind = (node.noise_kind, node.noise_shape(logits))
        if self._kinds.setdefault(key, kind) != kind:
            raise CannotEnumerate(
                f"{node.label} gets noise of shape {kind[1]} where another run of the same call gave {self._kinds[key][1]} to "
                f"another node: what both have in common cannot be enumerated; {AVERAGE}"
            )
        if key in self._noise and (key not in self._between or bool(self.oracle.repeats(self.estimator, call, stream))):
            return self._noise[key]
        thresholds = self.oracle.thresholds(self.estimator, node, logits.detach(), stream)
        if thresholds is not None:
            return self._refined(key, thresholds)
        parts = self.oracle.partition(self.estimator, node, logits.detach(), stream) or node.partition(logits)
        self._noise[key] = self._pick(*parts)
        return self._noise[key]

    def log_weight(self, batch: int | None = None) -> Tensor:
        """The log-probability of all that was sampled, of each example or, jointly, in all. Added up only here: a node may run
        without a gradient, as the samples of a walk do, and must not take the other nodes' from them."""
        if self.joint:
            weights = [weight.sum() for weight in self._weights]
        else:
            weights = self._weights + [_over_examples(*parts, batch or 0) for parts in self._of_rows]
        return sum(weights[1:], weights[0]) if weights else torch.zeros((), dtype=torch.float32, device="cpu")

    def _pick(self, noise: Tensor, log_weight: Tensor) -> Tensor:
        """The noise of one part per unit. noise, log_weight: parts in the leading dimension."""
        if self.joint:
            noise = noise.detach()  # an estimator differentiates at fixed noise; the model's expectation moves with the parts
        rows = None if self.joint else present_rows()
        repeats = 1 if rows is None else int(rows.occurrence.max()) + 1 if len(rows.index) else 0
        shape = log_weight.shape[1:] if self.joint else (repeats, *log_weight.shape[2:])
        count, parts = math.prod(shape), len(log_weight)
        if not self.replaying:
            self.layout.append((parts, count))
            if self.path is None:
                return noise[0]
        digits = self._digits(parts, count).view(shape)
        digits = digits.expand(log_weight.shape[1:]) if rows is None else digits[rows.occurrence]
        weight = log_weight.gather(0, digits.unsqueeze(0)).squeeze(0)
        if self.path is not None and count:
            self.path.forbid(_impossible(weight == -torch.inf, rows, repeats).reshape(-1, count).all(0))
        whole = weight.unsqueeze(-1).flatten(1).sum(1)
        if rows is None:
            self._weights.append(whole)
        else:
            self._of_rows.append((whole, rows, -math.log(parts) * (count // max(repeats, 1))))
        # What cannot happen weighs 0, whatever it costs; but 0 times the NaN of a forbidden category is NaN in the gradient.
        # So the closure runs there on what is likeliest instead.
        digits = torch.where(weight > -torch.inf, digits, log_weight.detach().argmax(0))
        spread = digits.view(*digits.shape, *[1] * (noise.dim() - 1 - digits.dim())).expand(noise.shape[1:])
        return noise.gather(0, spread.unsqueeze(0)).squeeze(0)

    def _digits(self, parts: int, count: int) -> Tensor:
        """Which part each of the next `count` units takes."""
        if self.path is not None:
            return self.path.take(parts, count)
        assert self.row is not None
        if self.call >= len(self.layout) or self.layout[self.call] != (parts, count):
            raise CannotEnumerate(DEPENDS)
        start, self.call, self.position = self.position, self.call + 1, self.position + count
        return self.row[start : self.position]

    def _refined(self, key: Any, thresholds: Tensor) -> Tensor:
        """A point of an interval between thresholds, inside the interval of this key's earlier request, if any."""
        points = self.oracle.quadrature
        low, high = self._between.get(key, (torch.zeros_like(thresholds[0]), torch.ones_like(thresholds[0])))
        edges = torch.cat((low.unsqueeze(0), thresholds.sort(0).values, high.unsqueeze(0))).clamp(low, high)
        width = high - low  # 0 for an outcome that cannot be, whose weight is 0 already
        weight = (edges[1:] - edges[:-1]) / torch.where(width > 0, width, torch.ones_like(width))
        middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
        parts = [torch.stack((edges[:-1], edges[1:], middle + x * half), -1) for x in points]
        interval = self._pick(torch.cat(parts), (weight / len(points)).log().repeat(len(points), *[1] * (weight.dim() - 1)))
        self._between[key] = (interval[..., 0], interval[..., 1])
        self._noise[key] = interval[..., 2]
        return self._noise[key]

    def finish(self) -> None:
        """Every unit of the layout must have been drawn again, else weights would not sum to one."""
        if self.replaying and self.call != len(self.layout):
            raise CannotEnumerate(DEPENDS)

    def outcomes(self) -> int:
        return math.prod(parts**count for parts, count in self.layout)

    def rows(self, limit: int) -> Tensor:
        """Every combination of parts, (outcomes, units drawn) int64."""
        outcomes = self.outcomes()
        if outcomes > limit:
            raise TooManyOutcomes(outcomes, self.layout, limit)
        radices = [parts for parts, count in self.layout for _ in range(count)]
        index, columns = torch.arange(outcomes, dtype=torch.int64, device="cpu"), []
        for radix in radices:
            columns.append(index % radix)
            index = index // radix
        return torch.stack(columns, 1) if columns else torch.zeros(1, 0, dtype=torch.int64, device="cpu")


def _over_examples(weight: Tensor, rows: Rows, absent: float, batch: int) -> Tensor:
    """The log weights of rows as those of their examples. One that has fewer rows than others has no part in what is drawn for
    the rows that it lacks, whose outcomes count as equally likely, `absent`."""
    present = torch.bincount(rows.index, minlength=batch)
    if len(present) > batch or rows.batch not in (None, batch):
        raise ValueError(
            f"dither.rows speaks of {rows.batch or len(present)} examples, but the closure returned a cost for {batch}: "
            "index says of each row whose cost it answers for"
        )
    lacking = (int(rows.occurrence.max()) + 1 if len(rows.index) else 0) - present
    return weight.new_zeros(len(present)).index_add(0, rows.index, weight) + absent * lacking.to(weight.dtype)


def _impossible(never: Tensor, rows: Rows | None, repeats: int) -> Tensor:
    """Of which units of a row the part cannot be, (examples, *units), by that of all rows."""
    if rows is None:
        return never
    of_each = [never[rows.occurrence == number].all(0) for number in range(repeats)]
    return torch.stack(of_each).unsqueeze(0) if of_each else never


def over(run: Callable[..., Any], rows: Tensor, *batched: Any) -> Any:
    """run(row) for all rows at once, the results of each in a leading dimension."""
    try:
        return torch.func.vmap(run, randomness="same")(rows, *batched)
    except ClosureError:
        raise
    except RuntimeError as error:
        error.add_note(
            "dither: all outcomes are enumerated in one vmap over the closure; where the closure cannot be vmapped (.item(), "
            "in-place updates of buffers, ...) give vectorize=False"
        )
        raise


def walk(run: Callable[[Path], Any], source: Enumeration, limit: int) -> Iterator[Any]:
    """run(path) for every combination of parts, one after the other: each run may sample other units."""
    path, count, more = Path(), 0, True
    while more:
        if count == limit:
            raise TooManyOutcomes(limit + 1, source.layout, limit)
        yield run(path)
        if count == 0 and source.outcomes() > limit:
            _require_other_lengths(run, source, limit)
        count, more = count + 1, path.next()


def _require_other_lengths(run: Callable[[Path], Any], source: Enumeration, limit: int) -> None:
    """Raise at once where the last combination draws the same units as the first, too many of them to be walked through."""
    first, outcomes = source.layout, source.outcomes()
    with torch.no_grad():
        run(Path(last=True))
    if source.layout == first:
        raise TooManyOutcomes(outcomes, first, limit)
