"""What lies in results/: valid, traceable to a commit, small, and shown by a page."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from dither import results

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "results").glob("*.json"))
PAGES = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if path.exists()]
LINK = re.compile(r"\]\(([^)#:]+)\)")

# Results of which no clean commit can be checked out, with what they take. `made_by` in each says what is known. A name goes
# from here when its result is published again; none is to be added.
HOURS, GPU = "an hour or more", "minutes on a GPU"
UNTRACEABLE = {
    "binary-vae": "35 minutes",
    "cartpole": "36 minutes",
    "first-demo": HOURS,
    "gsn-frey": HOURS,
    "gsn-gpu": GPU,
    "gsn-inpainting": "45 minutes and the models of gsn-mnist",
    "gsn-mnist": GPU,
    "gsn-mnist-cpu": HOURS,
}


# --- the files --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_published_result_is_valid(path):
    payload = results.load(path.stem, path.parent)
    assert results.dumps(payload) == path.read_text("utf-8")
    assert path.read_text("utf-8") == results.dumps(payload), "as save writes it: one row a line"


@pytest.mark.parametrize("path", [path for path in FILES if path.stem.endswith("-curves")], ids=lambda path: path.stem)
def test_curves_are_thin(path):
    rows = results.load(path.stem, path.parent)["rows"]
    assert rows == results.thin(rows)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rows_over_seeds_have_a_standard_deviation_and_no_extremes(path):
    rows = results.load(path.stem, path.parent)["rows"]
    columns = {column for row in rows for column in row}
    assert not {column for column in columns if re.search(r"(^|_)(least|most)(_|$)", column)}
    for column in columns:
        base, _, part = column.rpartition("_")
        assert part != "sd" or base in columns, f"{column} belongs to {base}"


# --- what made them ---------------------------------------------------------------------------------------------------
def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)


def has_history() -> bool:
    return (ROOT / ".git").exists() and git("rev-parse", "--is-shallow-repository").stdout.strip() == "false"


def reachable(commit: str) -> bool:
    return git("merge-base", "--is-ancestor", commit, "HEAD").returncode == 0


def obstacle(environment: dict) -> str:
    """Why nobody can check out what made a result; "" where it can be."""
    state = environment.get("git") or {}
    if not state.get("commit"):
        return "no commit is named"
    if state["dirty"]:
        return f"the tree had changes that are not in {state['commit']}"
    if has_history() and not reachable(state["commit"]):
        return f"{state['commit']} cannot be reached from here"
    return ""


def published() -> list[tuple[str, Path]]:
    """(name in UNTRACEABLE, file): curves go with their table."""
    audits = [(path.parent.name, path) for path in sorted((ROOT / "results").glob("*/audit.json"))]
    return [(path.stem.removesuffix("-curves"), path) for path in FILES] + audits


@pytest.mark.parametrize(("name", "path"), published(), ids=lambda value: value if isinstance(value, str) else value.stem)
def test_what_made_a_published_result_can_be_checked_out(name, path):
    payload = json.loads(path.read_text("utf-8"))
    why = obstacle(payload.get("environment", {}))
    if name not in UNTRACEABLE:
        assert not why, f"{why}: publish it again from a clean tree ({payload.get('command')})"
        return
    assert why, f"{name} can be checked out: take it from UNTRACEABLE"
    commits = re.findall(r"\b[0-9a-f]{7,40}\b", payload.get("made_by", ""))
    assert commits, "made_by says which commit and which changes made it"
    assert not has_history() or all(map(reachable, commits))


def test_the_exceptions_are_there():
    assert sorted(UNTRACEABLE) == sorted(set(UNTRACEABLE) & {name for name, _ in published()})


@pytest.mark.parametrize(
    ("state", "words"),
    [(None, "no commit"), ({"commit": None, "dirty": False}, "no commit"), ({"commit": "a" * 40, "dirty": True}, "changes")],
)
def test_what_cannot_be_checked_out_is_seen(state, words):
    assert words in obstacle({"git": state})


@pytest.mark.skipif(not has_history(), reason="no git history here")
def test_a_commit_that_is_not_there_is_seen():
    assert "cannot be reached" in obstacle({"git": {"commit": "a" * 40, "dirty": False}})
    assert not obstacle({"git": {"commit": git("rev-parse", "HEAD").stdout.strip(), "dirty": False}})


# --- where they are shown ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_tables_in_the_text_are_those_of_the_results(path):
    text = path.read_text("utf-8")
    if not results.BLOCK.search(text):
        pytest.skip("no table of results in it")
    assert results.fill(text, ROOT / "results") == text, f"run python -m dither.results {path.relative_to(ROOT)}"


def test_every_picture_is_a_png_that_a_page_shows():
    links = [
        (page.parent / link).resolve() for page in PAGES for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8"))
    ]
    pictures = {path for path in (ROOT / "results").rglob("*") if path.is_file() and path.suffix != ".json"}
    assert sorted(path.name for path in pictures - set(links)) == [], "no page shows these: git rm them"
    assert {path.suffix for path in pictures} == {".png"}


def test_the_tree_is_small():
    """Six megabytes, of which no file is one: somebody clones it."""
    tracked = git("ls-files", "-z")
    if tracked.returncode:
        pytest.skip("no git checkout")
    sizes = {name: (ROOT / name).stat().st_size for name in tracked.stdout.split("\0") if name and (ROOT / name).exists()}
    assert sum(sizes.values()) <= 6e6, sorted(sizes.items(), key=lambda item: -item[1])[:5]
    assert [name for name, size in sizes.items() if size > 1 << 20] == []
