"""README and docs use the field's words: a table of those that they do not use, and what to say instead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\([^)]*\)")

# Retired word -> the field's, case ignored. The patterns have no false alarm in README and docs: slope annealing, the slope of
# a line, a mixture of distributions, grey levels, and two methods that are level stay.
RETIRED = [
    (r"\b(noise|corruption)[ -]levels?\b|\blevels? of (noise|corruption)\b", "noise scales"),
    (r"\b(dae|chain|mnist)-levels\b|(?<![\w-])levels-(x\d|run)\b", "-multiscale, multiscale-"),
    (r"\bjudg(e|es|ed|ing)\b", "evaluate, metric"),
    (r"\bsettl(e|es|ed|ing)\b", "converge, finish, close"),
    (r"\b(no|without|has a|have) slopes?\b|\bmean slopes?\b", "gradient, dL/dh"),
    (r"\bslopes? of (the|its) (cost|loss|\*?others?)\b", "gradient, dL/dh"),
    (r"\bvalves?\b", "detach, custom autograd function"),
    (r"\b(respond|emit)(s|ed|ted|ing|ting)?\b", "sample, output"),
    (r"\bany[ -]questions?\b", "any-conditional model"),
    (r"\bAnyQuestion\b|\bmodels\.questions\b", "models.any_conditional.AnyConditional"),
    (r"^\|.*\b(least|most) *\|.*\n\| *:?-{3}|<!-- results:.*_(least|most)\b", "mean ± standard deviation (n)"),
    (r"\bdither\.Mixture\b|\bestimator `?Mixture\b|\bMixture\((net|model|kind)\b", "Blend"),
    (r"(?<![\w-])mixture-(\d|error|control-variate)|\[mixture\b[^]]*\]\(|(?-i:`mixture`|\| mixture \|)", "blend"),
    (r"\bchains\.Kernel\b", "chains.KernelConditional"),
    (r"\bso (many|few) as\b", "as many as"),
    (r"\bfor who\b", "for callers that"),
]


# The same for code: names of variables that say nothing of what they hold, and names that were renamed.
SOURCES = sorted(p for part in ("src", "csrc", "tests") for kind in ("*.py", "*.h", "*.cpp") for p in (ROOT / part).rglob(kind))
RETIRED_NAMES = [
    (r"^ *\(?(found|made|kept|apart|settled),?\)?(, \w+)*(: [\w\[\], .|]+)? \+?= ", "what the variable holds"),
    (r"\bfor (found|made|given|kept) in\b", "what the variable holds"),
    (r"\w\.(emit|respond|answer|cells)\(|\bdef (emit|respond|answer|cells|breaks)\(", "sample, output, partition"),
    (r"\b(takes_keys|_Passage|Valve)\b", "Node.kernel, detach"),
    (r"\b\w+_(least|most)\b(?<!at_least)(?<!at_most)|[\"'](least|most)[\"']", "min, max, mean and sd"),
    (r"\bAnyQuestion\b|\bchains\.Kernel\b|\bPLANTED\b|\bdither\.Mixture\b|\bdae-levels\b|\bmixture-error\b", "its new name"),
    (r"kernels\.(decide|choose|threshold|gumbel_max)\b", "bernoulli_from_uniform, categorical_from_uniform"),
]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def retired(text: str, words: list[tuple[str, str]] = RETIRED) -> list[str]:
    """ "LINE: 'words'; say WORD" of every retired word, but for those in the targets of links."""
    text = LINK.sub("]()", text)
    hits = [(match, word) for pattern, word in words for match in re.finditer(pattern, text, re.IGNORECASE | re.MULTILINE)]
    return [f"{text.count(chr(10), 0, m.start()) + 1}: {m.group().splitlines()[0]!r}; say {word}" for m, word in hits]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_page_uses_a_retired_word(page: Path) -> None:
    assert retired(page.read_text()) == []


def test_no_source_uses_a_retired_name() -> None:
    hits = {name(path): retired(path.read_text("utf-8"), RETIRED_NAMES) for path in SOURCES if path != Path(__file__)}
    assert {path: lines for path, lines in hits.items() if lines} == {}


@pytest.mark.parametrize(
    ("line", "caught"),
    [("    (found,) = grad(loss, a)", True), ("found = 3", True), ("found, spread = f()", True), ("for found in rows:", True),
     ("node.emit(a, h)", True), ('row["least"]', True), ("test_1_most", True), ("testing.PLANTED", True),
     ("conditioned = 3", False), ("given = torch.where(h > 0, p, 1)", False), ("at_least = 3", False),
     ("relaxed_given(z)", False)],
)  # fmt: skip
def test_a_retired_name_is_found(line: str, caught: bool) -> None:
    assert bool(retired(line, RETIRED_NAMES)) == caught


WRONG = (
    "several noise levels",
    "a level of corruption",
    "`dae-levels`",
    "`levels-x5` and --levels-run",
    "better judges",
    "it settles",
    "a cost without slopes",
    "the slope of the cost",
    "a valve",
    "it emits",
    "for any question",
    "models.questions",
    "| method | x most |\n| --- | ---: |",
    "<!-- results:first-demo test_1 test_1_least -->",
    "dither.Mixture",
    "the estimator `Mixture`",
    "`mixture-2`",
    "| mixture | 1 |",
    "[mixture](blend.md)",
    "chains.Kernel",
    "so many as",
    "for who cannot",
)
RIGHT = (
    "slope annealing, with a slope that grows",
    "slopes between -.97 and -1.08; a line keeps its slope",
    "grey levels; the two are level",
    "a judgement",
    "`gsn-mixture`, `Mixture`, `corruption.Mixture([...])` and a mixture of eight",
    "| at most | at least one |",
    "chains.KernelConditional",
    "for whoever; any other question",
    "![consecutive samples](figures/dae-levels.png)",
)


@pytest.mark.parametrize("text", WRONG)
def test_a_retired_word_is_found(text: str) -> None:
    (hit,) = {hit.partition(":")[0] for hit in retired(f"above\n{text}\nbelow")}
    assert hit == "2"


@pytest.mark.parametrize("text", RIGHT)
def test_its_neighbours_are_not(text: str) -> None:
    assert retired(text) == []
