"""What `dither audit` writes: audit.json, report.html and figures."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from dither.cli.audit_command import Command
from dither.cli.env import flatten
from dither.cli.out import Out, Row
from dither.cli.parse import to_json

HIDDEN = ("target", "out", "json", "quiet")  # where and how, not what


def write(rows: list[Row], recommendations: list[Row], run: Row, command: Command, folder: Path, out: Out) -> list[Path]:
    """Writes folder/audit.json and report.html, and figures/audit where matplotlib is installed."""
    from dither import files
    from dither.training.environment import environment

    folder.mkdir(parents=True, exist_ok=True)
    config = {k: v for k, v in to_json(command).items() if k not in HIDDEN}
    stored = {"environment": environment(), "config": config, "rows": rows, "recommendations": recommendations}
    files.write_json(folder / "audit.json", stored)
    files.write_atomic(folder / "report.html", page(rows, recommendations, about(run, config, command)).encode())
    paths = [folder / "audit.json", folder / "report.html"]
    try:
        return paths + figures(rows, folder / "figures")
    except ModuleNotFoundError as error:  # the measurement is worth having without its picture
        out.warn(f"no figure: {error}")
        return paths


def figures(rows: list[Row], folder: Path) -> list[Path]:
    """audit: the newest weights; audit-training: all of several checkpoints."""
    from dither import plots
    from dither.plots import audit, audit_training

    steps = sorted({row["step"] for row in rows if row.get("step") is not None})
    newest = [row for row in rows if not steps or row.get("step") == steps[-1]]
    paths = plots.save(audit.draw(newest).figure, folder / "audit")
    if len(steps) > 1:
        return paths + plots.save(audit_training.draw(rows), folder / "audit-training")
    for suffix in (".svg", ".png"):  # of an earlier audit, which this one replaces
        (folder / f"audit-training{suffix}").unlink(missing_ok=True)
    return paths


def page(rows: list[Row], recommendations: list[Row], facts: Row) -> str:
    """report.html: a part per checkpoint, the newest first."""
    from dither.auditing import Recommendation, render_html

    parts = []
    for row in reversed(recommendations):
        step = row.get("step")
        best = Recommendation(row["recommendation"], row["reason"], row["ranking"])
        parts.append(("" if step is None else f"Step {step}", [row for row in rows if row.get("step") == step], best))
    return render_html(parts, about=facts)


def about(run: Row, config: Row, command: Command) -> Row:
    """The table "How it was made". No cell names a folder of the machine."""
    from dither.training.environment import environment

    return {
        "command": command_line(command),
        **dict(flatten({"audit": config, "run": run})),
        **dict(flatten(environment())),
    }


def command_line(command: Command) -> str:
    """The command that makes this audit, without the folders of the machine: of a run's folder the name alone."""
    target = command.target
    words = ["dither", "audit", Path(target).resolve().name if Path(target).exists() else target]
    for f in fields(command):
        value = getattr(command, f.name)
        if f.name not in HIDDEN and value != f.default:
            values: Sequence[object] = value if isinstance(value, tuple) else (value,)
            words += [f"--{f.name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)
