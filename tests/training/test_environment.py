"""Which changes make a tree dirty: those that a run may have read."""

import subprocess

import pytest

from dither.training.environment import git_state


@pytest.fixture
def tree(tmp_path):
    """A checkout with code/a.py, results/a.json and page.md, all committed."""

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    for name in ("code/a.py", "results/a.json", "page.md", ".gitignore"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("ignored.py\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "a")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "dirty"),
    [
        ("code/a.py", True),
        ("code/new.py", True),  # it may be imported
        ("page.md", True),
        ("code/ignored.py", False),
        ("notes.txt", False),  # outside the code, and not tracked
        ("results/a.json", False),  # what another run has published
        ("results/new.json", False),
        ("code/results/new.json", True),  # another folder of that name is no exception
    ],
)
def test_which_changes_count(tree, path, dirty):
    assert git_state(tree / "code") == {"commit": git_state(tree / "code")["commit"], "dirty": False}
    (tree / path).parent.mkdir(exist_ok=True)
    (tree / path).write_text("2")
    assert git_state(tree / "code")["dirty"] is dirty
