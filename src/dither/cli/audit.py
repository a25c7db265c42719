"""`dither audit`: how biased and how noisy gradient estimators are, on a trained run or on your own model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from dither import methods
from dither.cli.audit_subject import Subject, blaming, from_function, from_run, is_function
from dither.cli.errors import OK, CommandError, UsageError
from dither.cli.names import build
from dither.cli.names import check as check_estimator
from dither.cli.out import Out
from dither.cli.parse import parse
from dither.cli.setup import ESTIMATORS

COLUMNS = ["estimator", "bias", "bias_se", "variance", "mse", "cosine", "snr", "evaluations", "milliseconds", "efficiency"]
DEFAULT = (
    "straight-through:identity",
    "straight-through",
    "score-function",
    "score-function:mean",
    "score-function:optimal",
    "score-function:leave-one-out",
)


@dataclass(frozen=True)
class Command:
    """Measure the bias and the variance of gradient estimators, and recommend one.

    On a run: its newest weights and one batch of its validation data; writes RUN/audit.json, RUN/report.html and
    RUN/figures/audit. On your own model: MODULE:FUNCTION returns (model, closure) or (model, closure, {name: estimator}).
    """

    target: Positional[Annotated[str, arg(metavar="RUN|MODULE:FUNCTION")]]
    """A run folder, or a function to import."""
    estimators: Annotated[
        tuple[str, ...], arg(help=f"Which estimators to compare; all: every one that the model allows. {ESTIMATORS}")
    ] = DEFAULT
    checkpoints: Annotated[tuple[str, ...], arg(metavar="newest|all|STEP [STEP ...]")] = ("newest",)
    """Which of a run's checkpoints to audit; several show how bias and variance change during training."""
    samples: int = 4
    """Samples per example, for every estimator."""
    draws: int = 200
    """Gradient estimates per estimator."""
    warmup: int = 100
    """Calls of each estimator before its first draw, for its moving averages and what it learns by gradients."""
    batch_size: int = 32
    """Examples in the batch, of a run's validation part."""
    seed: int = 0
    """Governs all noise."""
    out: Path | None = None
    """Folder for audit.json, report.html and figures/; default RUN, and none for a function."""
    json: bool = False
    """One JSON object a line on stdout: a row per estimator and parameter, at last the recommendation."""
    quiet: bool = False
    """No progress and no hints on stderr."""


def main(arguments: Sequence[str]) -> int:
    return run(parse(Command, arguments, "dither audit"))


def run(command: Command) -> int:
    """Audits, prints the overall rows (all rows under --json), and keeps all of them."""
    check(command)
    out = Out(json=command.json, quiet=command.quiet)
    subject = (from_function if is_function(command.target) else from_run)(command, out)
    rows, recommendations = measured(subject, chosen(subject, command, out), command, out)
    folder = command.out or (None if is_function(command.target) else Path(command.target))
    if folder:
        from dither.cli.audit_files import keep

        for path in keep(rows, recommendations, subject.about, command, folder, out):
            out.note(f"wrote {path}")
    several = len(recommendations) > 1
    overall = [row for row in rows if row["parameter"] == "overall"]
    out.table(rows if command.json else overall, ["step", *COLUMNS] if several else COLUMNS, title="Gradient audit")
    out.note(f"reference: {rows[-1]['reference']}; efficiency is 1 / (mse x milliseconds)")
    for found in recommendations:
        out.record(found)
        where = f" at step {found['step']}" if several else ""
        out.note(f"recommended{where}: {found['recommendation']}: {found['reason']}")
    return OK


def measured(
    subject: Subject, estimators: dict[str, Any], command: Command, out: Out
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and a recommendation for each set of weights; with their `step` where they are a checkpoint's."""
    import dither

    rows: list[dict[str, Any]] = []
    recommendations: list[dict[str, Any]] = []
    points = len(subject.weights)
    at = f" at {points} checkpoints" if points > 1 else ""
    out.note(f"auditing {len(estimators)} estimators{at}, {command.draws} draws each")
    with out.progress("auditing") as progress, blaming(command.target):
        for done, (step, restore) in enumerate(subject.weights):
            restore()
            report = dither.audit(
                subject.model, subject.closure, estimators, command.draws, seed=command.seed, warmup=command.warmup,
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


def chosen(subject: Subject, command: Command, out: Out) -> dict[str, Any]:
    """The function's own estimators, else the named ones; of "all" those that the model and its cost allow."""
    if subject.estimators is not None:
        return subject.estimators
    if "all" not in command.estimators:
        names = [name for name in command.estimators if name != "all"]
        return {name: build(name, subject.model, command.samples, out.note) for name in names}
    from dither.auditing import suitable

    every = [name for name in methods.every() if name.partition(":")[0] != "auto"]
    builds = {name: partial(build, name, samples=command.samples, note=out.note) for name in every}
    found, refused = suitable(subject.model, subject.closure, builds)
    for name, reason in refused.items():
        out.note(f"left out {name}: {reason.removeprefix(f'{name}: ')}")
    if not found:
        name, reason = next(iter(refused.items()))
        raise CommandError(f"{command.target}: no estimator can be audited; {name}: {reason.removeprefix(f'{name}: ')}")
    return found
