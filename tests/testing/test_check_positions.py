"""The check of positions checked: each mutant is right by itself, and caught in the positions that its entry names."""

from __future__ import annotations

from functools import partial

import pytest

import dither
from dither import testing

ENTRIES = [(mutant, position) for mutant, (_, positions) in testing.POSITION_MUTANTS.items() for position in positions]


@pytest.mark.parametrize(("mutant", "position"), ENTRIES)
def test_a_mutant_is_caught_in_its_position(mutant: str, position: str) -> None:
    build, _ = testing.POSITION_MUTANTS[mutant]
    with pytest.raises(testing.CheckFailed) as caught:
        testing.check_positions(build, positions=[position])
    assert caught.value.check == position


@pytest.mark.parametrize("mutant", testing.POSITION_MUTANTS)
def test_a_mutant_is_right_by_itself(mutant: str) -> None:
    build, positions = testing.POSITION_MUTANTS[mutant]
    fine = {"plain", "in place after the node", "copied", "no unit dimension"} - set(positions)
    assert set(testing.check_positions(build, positions=fine).values()) == {"right"}


def test_every_position_has_a_mutant() -> None:
    assert {position for _, position in ENTRIES} == set(testing.POSITIONS) - {"plain"}
    with pytest.raises(testing.CheckFailed, match=r"\[plain\]"):
        testing.check_positions(testing.MUTANTS["scaled by 1.001"][0])


def test_the_answers_are_right_or_the_refusals_messages() -> None:
    answers = testing.check_positions(dither.DisARM, node=dither.Bernoulli)
    assert list(answers) == list(testing.POSITIONS)
    refused = {position: answer for position, answer in answers.items() if answer != "right"}
    assert refused.keys() == {"logits changed in place", "inside PerNode"}
    assert "DisARM(net)" in refused["inside PerNode"] or "by itself" in refused["inside PerNode"]


class Fails(dither.ScoreFunction):
    def surrogate(self, site, costs):
        if self.vectorize:
            raise NotImplementedError("Fails makes no runs in a vmap: use vectorize=False")
        return super().surrogate(site, costs)


def test_an_error_is_a_refusal_only_where_one_is_foreseen() -> None:
    build = partial(Fails, vectorize=False)
    with pytest.raises(testing.CheckFailed, match=r"\[vmap\] .* NotImplementedError: Fails makes no runs"):
        testing.check_positions(build, positions=["plain", "vmap"])
    answers = testing.check_positions(build, positions=["loop", "vmap"], refusals={"vmap": "use vectorize=False"})
    assert answers == {"loop": "right", "vmap": "Fails makes no runs in a vmap: use vectorize=False"}


def test_arguments() -> None:
    with pytest.raises(ValueError, match="declares unbiased = False"):
        testing.check_positions(dither.StraightThrough)
    with pytest.raises(ValueError, match="'copies'; there are plain, "):
        testing.check_positions(dither.ScoreFunction, positions=["copies"])
    with pytest.raises(ValueError, match="depth is 3"):
        testing.check_positions(dither.ScoreFunction, depth=3)
    assert testing.check_positions(dither.ScoreFunction, positions="copied") == {"copied": "right"}
