"""K independent runs, and control variates made of the other runs' costs and sample gradients."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from torch import Tensor, nn

from dither.estimators.control_variates.scales import require_pairs
from dither.estimators.core.call import Call
from dither.estimators.core.estimator import Estimator
from dither.estimators.core.mappable import Vectorize


class IndependentSamples(Estimator):
    """Base of estimators with K independent runs, whose control variates are made of the other runs' costs and sample
    gradients.

    A sample gradient reaches earlier nodes by the straight-through path of each node's mean. It only has to be independent of
    the sample that it is used for, so any will do: that of a cost without a derivative is zero.
    """

    requires = ("score",)
    needs_sample_gradients = True
    composable = False
    unbiased = True
    former_order = ("samples",)

    def __init__(self, model: nn.Module, *, samples: int = 2, vectorize: Vectorize = "auto", repeated: bool = False) -> None:
        super().__init__(model, samples=samples, vectorize=vectorize, repeated=repeated)
        require_pairs(type(self).__name__, samples)

    @classmethod
    def fewest_samples(cls, words: Collection[str] = ()) -> int:
        return 2

    @classmethod
    def configurations(cls) -> dict[str, Callable[[nn.Module], Estimator]]:
        return {f"{cls.__name__}-{k}": partial(cls, samples=k) for k in (2, 3)}

    def sample(self, call: Call) -> tuple[Tensor, Tensor | None]:
        if not call.node.discrete:
            return call.propagate(), None
        sample = call.sample()
        return call.differentiable(call.output(sample), call.node.mean(call.logits)), sample
