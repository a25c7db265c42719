"""Where words go, and how they look there."""

import io
import json

import pytest

from dither.cli.out import LineProgress, Out, wants_color

ROWS = [{"name": "a\tb", "value": 0.123456}, {"name": "c", "value": float("nan")}]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminals(monkeypatch):
    """Call it in the test: both streams become terminals, in a clean environment, and are returned."""

    def install(**environment):
        for name in ("NO_COLOR", "FORCE_COLOR", "DITHER_NO_PROGRESS", "TTY_COMPATIBLE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", **environment}.items():
            monkeypatch.setenv(name, value)
        out, err = Terminal(), Terminal()
        monkeypatch.setattr("sys.stdout", out)
        monkeypatch.setattr("sys.stderr", err)
        return out, err

    return install


def test_a_pipe_gets_tab_separated_values_without_stray_tabs(capsys):
    Out().table(ROWS)
    assert capsys.readouterr().out == "name\tvalue\na b\t0.1235\nc\tnan\n"


def test_a_terminal_gets_a_table(terminals):
    streams = terminals()
    Out().table(ROWS, title="Two rows")
    assert "┏━" in streams[0].getvalue() and "Two rows" in streams[0].getvalue()


def test_json_is_one_object_a_line_with_null_for_what_json_cannot_say(capsys):
    out = Out(json=True)
    out.table(ROWS)
    out.line("for people only")
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [{"name": "a\tb", "value": 0.123456}, {"name": "c", "value": None}]


def test_quiet_silences_hints_but_not_errors(capsys):
    out = Out(quiet=True)
    out.note("a hint")
    out.warn("careful")
    out.error("no")
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err == "dither: warning: careful\ndither: error: no\n"


@pytest.mark.parametrize(
    ("environment", "colored"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
     ({"TERM": "dumb", "FORCE_COLOR": "1"}, True)],
)  # fmt: skip
def test_color_of_errors_and_tables(terminals, environment, colored):
    streams = terminals(**environment)
    Out().error("no")
    Out().table(ROWS, title="title")
    assert ("\x1b[" in streams[1].getvalue()) == colored
    assert wants_color(streams[0]) == colored
    if not colored:
        assert "\x1b" not in streams[0].getvalue()


def test_force_color_in_a_pipe(capsys, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    Out().error("no")
    assert "\x1b[" in capsys.readouterr().err


def test_progress_goes_to_stderr_and_only_there(terminals):
    streams = terminals()
    with Out().progress("training") as progress:
        progress(1, 2, "loss 0.5")
    assert streams[0].getvalue() == "" and "training" in streams[1].getvalue()


@pytest.mark.parametrize("silence", ["quiet", "variable"])
def test_progress_is_silent_when_told_so(terminals, silence):
    streams = terminals(**({"DITHER_NO_PROGRESS": "1"} if silence == "variable" else {}))
    with Out(quiet=silence == "quiet").progress("training") as progress:
        progress(1, 2)
    assert streams[1].getvalue() == ""


def test_progress_in_a_log_is_at_most_a_line_a_minute(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with Out().progress("training") as progress:
        assert isinstance(progress, LineProgress)
        for second in range(150):
            now = float(second)
            progress(second, 150, "loss 1")
    assert capsys.readouterr().err == "training 60/150 loss 1\ntraining 120/150 loss 1\n"
