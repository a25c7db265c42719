"""What `dither audit` leaves behind: audit.json, report.html and figures."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dither.cli.env import flatten
from dither.cli.out import Out
from dither.cli.parse import to_json

if TYPE_CHECKING:
    from dither.cli.audit import Command

Rows = list[dict[str, Any]]
HIDDEN = ("target", "out", "json", "quiet")  # where and how, not what


def keep(rows: Rows, recommendations: Rows, run: dict[str, Any], command: Command, folder: Path, out: Out) -> list[Path]:
    """Writes folder/audit.json and report.html, and figures/audit where matplotlib is installed."""
    from dither import files

    folder.mkdir(parents=True, exist_ok=True)
    config = {k: v for k, v in to_json(command).items() if k not in HIDDEN}
    files.write_json(folder / "audit.json", {"config": config, "rows": rows, "recommendations": recommendations})
    files.write_atomic(folder / "report.html", page(rows, recommendations, about(run, config, command)).encode())
    paths = [folder / "audit.json", folder / "report.html"]
    try:
        return paths + figures(rows, folder / "figures")
    except ModuleNotFoundError as error:  # the measurement is worth having without its picture
        out.warn(f"no figure: {error}")
        return paths


def figures(rows: Rows, folder: Path) -> list[Path]:
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


def page(rows: Rows, recommendations: Rows, facts: dict[str, Any]) -> str:
    """report.html: a part per checkpoint, the newest first."""
    from dither.auditing import Recommendation, render_html

    parts = []
    for found in reversed(recommendations):
        step = found.get("step")
        best = Recommendation(found["recommendation"], found["reason"], found["ranking"])
        parts.append(("" if step is None else f"Step {step}", [row for row in rows if row.get("step") == step], best))
    return render_html(parts, about=facts)


def about(run: dict[str, Any], config: dict[str, Any], command: Command) -> dict[str, Any]:
    """The table "How it was made": nothing in it names a folder of the machine."""
    from dither.training.environment import environment

    return {
        "command": command_line(command),
        **dict(flatten({"audit": config, "run": run})),
        **dict(flatten(environment())),
    }


def command_line(command: Command) -> str:
    """The command that makes this audit, without where it was made: of a run's folder the name alone."""
    target = command.target
    words = ["dither", "audit", Path(target).resolve().name if Path(target).exists() else target]
    for f in fields(command):
        value = getattr(command, f.name)
        if f.name not in HIDDEN and value != f.default:
            values: Iterable[Any] = value if isinstance(value, tuple) else (value,)
            words += [f"--{f.name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)
