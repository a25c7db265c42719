"""Every unbiased estimator of the library in every position of a user's program: right, or refused with the remedy.

Of each family one configuration in each position, another one from position to position; all of them with --long.
"""

from __future__ import annotations

from collections import defaultdict

import pytest

import dither
from dither import estimators, testing
from dither.benchmarks.positions import Combination, configurations, unbiased

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler's own

FAMILIES: dict[str, list[Combination]] = defaultdict(list)
for combination in unbiased():
    FAMILIES[combination.family].append(combination)


def cases():
    for number, position in enumerate(testing.POSITIONS):
        for members in FAMILIES.values():
            for index, member in enumerate(members):
                marks = [] if index == number % len(members) else [pytest.mark.long]
                yield pytest.param(member, position, marks=marks, id=f"{member.name}-{member.kind}-{position}")


@pytest.mark.parametrize(("combination", "position"), list(cases()))
def test_it_is_right_or_refused(combination: Combination, position: str) -> None:
    combination.check(position)


def test_no_unbiased_estimator_is_left_out() -> None:
    classes = {
        name
        for name, kind in vars(estimators).items()
        if isinstance(kind, type) and issubclass(kind, dither.Estimator) and getattr(kind, "unbiased", False)
    }
    assert classes <= set(FAMILIES)
    assert len(FAMILIES) >= 20 and set(FAMILIES) <= {name.partition("-")[0] for name in configurations()}
