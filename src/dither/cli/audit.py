"""`dither audit`: how biased and how noisy gradient estimators are, on a trained run or on your own model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dither import methods
from dither.cli.audit_command import Command
from dither.cli.audit_files import write
from dither.cli.audit_subject import Subject, blaming, from_function, from_run, is_function
from dither.cli.errors import OK, CommandError, UsageError
from dither.cli.names import build
from dither.cli.names import check as check_estimator
from dither.cli.out import Out, Row
from dither.cli.parse import parse
from dither.cli.setup import ESTIMATORS

if TYPE_CHECKING:
    from dither.estimators import Estimator


def main(arguments: Sequence[str]) -> int:
    return run(parse(Command, arguments, "dither audit"))


def run(command: Command) -> int:
    """Audits, prints the overall rows (all rows under --json), and writes all of them to a folder."""
    check(command)
    from dither.auditing import COLUMNS

    out = Out(json=command.json, quiet=command.quiet)
    subject = (from_function if is_function(command.target) else from_run)(command, out)
    rows, recommendations = audited(subject, estimators_of(subject, command, out), command, out)
    write_files(rows, recommendations, subject, command, out)
    several = len(recommendations) > 1
    overall = [row for row in rows if row["parameter"] == "overall"]
    columns = ["step"] * several + ["estimator", *COLUMNS]
    out.table(rows if command.json else overall, columns, title="Gradient audit")
    out.note(f"reference: {rows[-1]['reference']}; efficiency is 1 / (mse x milliseconds)")
    for best in recommendations:
        out.record(best)
        where = f" at step {best['step']}" if several else ""
        out.note(f"recommended{where}: {best['recommendation']}: {best['reason']}")
    return OK


def write_files(rows: list[Row], recommendations: list[Row], subject: Subject, command: Command, out: Out) -> None:
    """Into --out, or the run's own folder; of a function nothing is written without --out."""
    folder = command.out or (None if is_function(command.target) else Path(command.target))
    if folder:
        for path in write(rows, recommendations, subject.about, command, folder, out):
            out.note(f"wrote {path}")


def audited(subject: Subject, estimators: dict[str, Estimator], command: Command, out: Out) -> tuple[list[Row], list[Row]]:
    """Rows and a recommendation for each set of weights; with their `step` where they are a checkpoint's."""
    import dither

    rows: list[Row] = []
    recommendations: list[Row] = []
    points = len(subject.weights)
    at = f" at {points} checkpoints" if points > 1 else ""
    out.note(f"auditing {len(estimators)} estimators{at}, {command.draws} draws each")
    with out.progress("auditing") as progress, blaming(command.target):
        for done, (step, restore) in enumerate(subject.weights):
            restore()
            report = dither.audit(
                subject.model, subject.closure, estimators, draws=command.draws, seed=command.seed, warmup=command.warmup,
                progress=lambda draw, draws, before=done: progress(before * draws + draw, points * draws),
            )  # fmt: skip
            where = {} if step is None else {"step": step}
            rows += [{**where, **row, "draws": report.draws} for row in report.to_dicts()]
            best = report.recommend()
            ranking = list(best.ranking)
            recommendations.append({**where, "recommendation": best.estimator, "reason": best.reason, "ranking": ranking})
    return rows, recommendations


def check(command: Command) -> None:
    if command.draws < 2:
        raise UsageError(f"--draws is {command.draws}: a variance needs at least 2")
    if command.samples < 1 or command.batch_size < 1:
        raise UsageError("--samples and --batch-size must be at least 1")
    if command.warmup < 0:
        raise UsageError(f"--warmup is {command.warmup}, it must be 0 or more")
    if not command.estimators:
        raise UsageError(f"--estimators names none; {ESTIMATORS} Or all")
    for name in command.estimators:
        if name.partition(":")[0] == "auto":
            raise UsageError("--estimators auto: it chooses among others by audits of its own, and is none to audit")
        if name != "all":
            check_estimator(name, "--estimators")
    if not command.checkpoints:
        raise UsageError("--checkpoints names none; give newest, all, or steps")
    if is_function(command.target) and command.checkpoints != ("newest",):
        raise UsageError("--checkpoints chooses among those of a run; a function has none")


def estimators_of(subject: Subject, command: Command, out: Out) -> dict[str, Estimator]:
    """The function's own estimators, else the named ones; of "all" those that the model and its cost allow."""
    if subject.estimators is not None:
        return subject.estimators
    if "all" not in command.estimators:
        return {name: build(name, subject.model, command.samples, out.note) for name in command.estimators}
    from dither.auditing import suitable

    every = [name for name in methods.every() if name.partition(":")[0] != "auto"]
    builds = {name: partial(build, name, samples=command.samples, note=out.note) for name in every}
    estimators, refused = suitable(subject.model, subject.closure, builds)
    reasons = {name: f"{name}: {reason.removeprefix(f'{name}: ')}" for name, reason in refused.items()}
    for reason in reasons.values():
        out.note(f"left out {reason}")
    if not estimators:
        raise CommandError(f"{command.target}: no estimator can be audited; {next(iter(reasons.values()))}")
    return estimators
