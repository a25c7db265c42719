"""Help, usage errors and exit codes; what answers at once must not import torch."""

import subprocess
import sys

import pytest

from dither.cli import VERBS, main
from dither.cli.bench import BENCHMARKS
from dither.cli.experiment import EXPERIMENTS

HELP = [["--help"], *([verb, "--help"] for verb in VERBS), ["experiment", "list"], ["bench", "list"]]
# An experiment and a benchmark import torch at their top, and their help is of their own options.
HELP_OF_ONE = [*(["experiment", name, "--help"] for name in EXPERIMENTS), *(["bench", name, "--help"] for name in BENCHMARKS)]

CODE = """
import sys
from dither.cli import main
for arguments in {commands!r}:
    assert main(arguments) == 0, arguments
    for heavy in {heavy!r}:
        assert heavy not in sys.modules, (heavy, arguments)
"""


def call(*arguments, **more):
    """`dither ARGUMENTS` in a process of its own."""
    command = [sys.executable, "-m", "dither", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **more)


def run_all(commands, heavy):
    code = CODE.format(commands=commands, heavy=heavy)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_help_imports_no_torch():
    done = run_all(HELP, ["torch", "matplotlib"])
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS) and done.stderr == ""


def test_every_experiment_and_benchmark_has_help():
    done = run_all(HELP_OF_ONE, ["matplotlib"])
    assert done.returncode == 0, done.stderr
    assert all(f"dither experiment {name}" in done.stdout for name in EXPERIMENTS) and done.stderr == ""


def test_no_verb_and_unknown_verb_are_usage_errors_on_stderr(capsys):
    assert main([]) == 2
    assert "dither train" in capsys.readouterr().err
    assert main(["trian"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "perhaps you meant: dither train" in printed.err


@pytest.mark.parametrize("verb", ["train", "audit", "plot", "env"])
def test_an_unknown_flag_is_a_usage_error_on_stderr(capsys, verb):
    assert main([verb, *(["x"] if verb in ("audit", "plot") else []), "--jsn"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "--jsn" in printed.err


def test_a_misspelt_flag_gets_a_suggestion(capsys):
    assert main(["train", "--hiden", "3"]) == 2
    assert "--hidden" in capsys.readouterr().err


def test_tyro_uses_no_color_where_none_is_wanted(monkeypatch, capsys):
    """tyro itself decides by stdout alone, so a redirected stderr got escapes; and it knows no NO_COLOR."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert main(["train", "--lrr"]) == 2
    assert "\x1b" not in capsys.readouterr().err
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["train", "--help"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["train", "--help"]) == 0
    assert "\x1b[" in capsys.readouterr().out


def test_a_reader_that_leaves_makes_no_noise():
    command = f"{sys.executable} -m dither experiment list | head -c 0; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == "" and done.stdout.strip() in ("0", "141")


def test_the_module_runs_and_version_is_printed():
    done = call("--version")
    assert done.returncode == 0 and done.stdout.startswith("dither 0.") and done.stderr == ""


def test_env_is_one_block_or_one_object(capsys):
    import json

    assert main(["env"]) == 0
    assert "versions.torch" in capsys.readouterr().out
    assert main(["env", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["versions"]["torch"]
