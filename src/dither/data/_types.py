"""What a loader returns: a data set in three parts, as tensors."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """One part of a data set: `x` (n, features) float32 in [0, 1] and `y` (n,) int64."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"Split({len(self):,} x {self.x.shape[1]})"


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set with a fixed split; without labels `classes` is 1 and every `y` is 0.

    `valid` is for model selection (when to stop, which model, which setting), `test` for reporting what was selected.
    `shape` is (channels, height, width), so `split.x.view(-1, *dataset.shape)` gives images.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    shape: tuple[int, ...]
    classes: int
