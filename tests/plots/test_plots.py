"""Figures: the same bytes for the same records, whole or absent, and saying what they show."""

import matplotlib
import pytest

from dither import plots
from dither.plots import audit, audit_training, bars, learning_curves

CURVES = [
    {"estimator": e, "seed": s, "epoch": i, "seconds": i * (1 + s / 10), "validation_accuracy": i / 10 + s / 100}
    for e in ("straight-through", "score-function")
    for s in (0, 1, 2)
    for i in (1, 2, 3)
]
AUDIT = [
    {"estimator": "biased", "parameter": "overall", "bias": 0.3, "bias_se": 0.001, "variance": 0.01, "mse": 0.1,
     "evaluations": 1, "milliseconds": 0.8, "reference": "enumeration", "draws": 50},
    {"estimator": "noisy", "parameter": "overall", "bias": 0.02, "bias_se": 0.03, "variance": 20.0, "mse": 20.0004,
     "evaluations": 10, "milliseconds": 0.9, "reference": "enumeration", "draws": 50},
    {"estimator": "exact", "parameter": "overall", "bias": 1e-16, "bias_se": 0.0, "variance": 0.0, "mse": 1e-32,
     "evaluations": 1024, "milliseconds": 40.0, "reference": "enumeration", "draws": 50},
    {"estimator": "noisy", "parameter": "0.weight", "bias": 1.0, "bias_se": 1.0, "variance": 1.0, "mse": 1.0},
]  # fmt: skip

STEPS = [{**row, "step": step, "variance": row["variance"] / step} for step in (20, 10) for row in AUDIT]


@pytest.mark.parametrize(
    "draw", [lambda: learning_curves.draw(CURVES).figure, lambda: audit.draw(AUDIT).figure, lambda: audit_training.draw(STEPS)]
)
def test_the_same_records_give_the_same_bytes(tmp_path, draw):
    first = plots.save(draw(), tmp_path / "a")
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.hashsalt": "other"}):
        second = plots.save(draw(), tmp_path / "b")
    assert [p.name for p in first] == ["a.svg", "a.png"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert b"<dc:date>" not in first[0].read_bytes()


def test_settings_are_restored_and_pyplot_is_not_touched():
    import subprocess
    import sys

    before = dict(matplotlib.rcParams)
    learning_curves.draw(CURVES)
    assert dict(matplotlib.rcParams) == before
    code = (
        "from dither import plots; plots.new_axes(); import sys; assert not {'matplotlib.pyplot', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_dot_in_the_name_is_no_suffix(tmp_path):
    assert [p.name for p in plots.save(plots.new_axes().figure, tmp_path / "new" / "v1.2")] == ["v1.2.svg", "v1.2.png"]


def test_a_failed_save_leaves_the_old_figure(tmp_path, monkeypatch):
    (path, _) = plots.save(plots.new_axes().figure, tmp_path / "a")
    old = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dither.files.write_new", full)
    with pytest.raises(OSError, match="free some space"):
        plots.save(learning_curves.draw(CURVES).figure, tmp_path / "a")
    assert path.read_bytes() == old and {p.name for p in tmp_path.iterdir()} == {"a.svg", "a.png"}


def test_curves_are_means_with_a_band_over_seeds():
    curves = learning_curves.collect(CURVES, "epoch", "validation_accuracy", "estimator")
    assert list(curves) == ["straight-through", "score-function"]
    x, mean, low, high, n = curves["score-function"][1]
    assert (x, n) == (2, 3) and (mean, low, high) == pytest.approx((0.21, 0.20, 0.22))
    times = learning_curves.collect(CURVES, "seconds", "validation_accuracy", "estimator")
    assert [point[0] for point in times["score-function"]] == pytest.approx([1.1, 2.2, 3.3])
    ax = learning_curves.draw(CURVES, x="seconds")
    legend = ax.get_legend()
    assert legend and [t.get_text() for t in legend.get_texts()] == ["straight-through (n = 3)", "score-function (n = 3)"]
    assert ax.get_xlabel() == "training time (seconds)" and len(ax.collections) == 2


def test_one_run_without_group_and_missing_values():
    ax = learning_curves.draw([{"epoch": 1, "train_loss": 2.0}, {"epoch": 2}, {"epoch": 3, "train_loss": 1.0}], y="train_loss")
    assert ax.lines[0].get_xydata().tolist() == [[1, 2], [3, 1]]
    with pytest.raises(ValueError, match="no record has both"):
        learning_curves.draw([{"epoch": 1}], y="train_loss")


def test_it_draws_on_the_axes_of_the_caller():
    ax = plots.new_axes()
    assert learning_curves.draw(CURVES, ax) is ax and audit.draw(AUDIT, plots.new_axes()).get_xscale() == "log"


def test_the_audit_says_what_is_not_known_and_what_is_zero():
    assert audit.bias_squared(AUDIT[0]) == (pytest.approx(0.09), True)
    assert audit.bias_squared(AUDIT[1]) == (pytest.approx(0.0009), False)  # cannot be told from none
    ax = audit.draw(AUDIT)
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels == ["noisy\n10 evaluations, 0.9 ms", "biased\n1 evaluation, 0.8 ms", "exact\n1024 evaluations, 40 ms"]
    assert "n = 50 draws, against enumeration" in ax.get_title(loc="left")
    texts = [t.get_text() for t in ax.figure.legends[0].get_texts()]
    assert texts == ["bias²", "bias², at most", "variance", "mean squared error", "zero"]
    assert ax.get_xlim()[0] > 1e-6  # rounding errors do not stretch the axis


def test_the_audit_of_one_parameter_and_of_none():
    assert len(audit.draw(AUDIT, parameter="0.weight").get_yticks()) == 1
    with pytest.raises(ValueError, match=r"there is 0\.weight, overall"):
        audit.draw(AUDIT, parameter="1.weight")


def test_all_zero_still_draws():
    row = {"estimator": "exact", "parameter": "overall", "bias": 0.0, "bias_se": 0.0, "variance": 0.0, "mse": 0.0}
    assert audit.draw([row]).get_xlim()[0] > 0


def test_the_audits_of_a_training_are_lines_over_its_steps():
    figure = audit_training.draw(STEPS)
    bias, variance = figure.axes
    lines = {line.get_label(): line for line in variance.lines}
    assert set(lines) == {"biased", "noisy", "exact"}
    assert list(lines["noisy"].get_xdata()) == [10, 20] and list(lines["noisy"].get_ydata()) == [2.0, 1.0]
    hollow = [line for line in bias.lines if line.get_markerfacecolor() == "white"]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in hollow] == [([10], [0.03**2]), ([20], [0.03**2])]
    assert "n = 50 draws, against enumeration" in figure.get_suptitle()


def test_of_many_estimators_the_best_are_drawn_and_without_steps_none():
    rows = [{**AUDIT[1], "estimator": f"e{i}", "step": step, "mse": i + step} for i in range(20) for step in (1, 2)]
    figure = audit_training.draw(rows)
    assert [line.get_label() for line in figure.axes[1].lines] == [f"e{i}" for i in range(8)]
    assert "the 8 of lowest error at step 2" in figure.get_suptitle()
    with pytest.raises(ValueError, match="and a step"):
        audit_training.draw(AUDIT)


def test_many_curves_are_named_in_the_order_of_their_ends_without_their_steep_start():
    rows = [{"estimator": f"e{i}", "step": step, "train_elbo": -1000 / step - i} for i in range(10) for step in range(1, 101)]
    ax = learning_curves.draw(rows[::-1], x="step", y="train_elbo")
    legend = ax.get_legend()
    assert legend and [text.get_text() for text in legend.get_texts()] == [f"e{i} (n = 1)" for i in range(10)]
    assert -110 < ax.get_ylim()[0] < -90 and "one seed; start cut off" in [text.get_text() for text in ax.texts]


def test_bars_start_at_zero_and_each_panel_has_its_own_axis():
    names, depths = ("floor", "a", "b"), (3, 30)
    rows = [{"depth": d, "implementation": n, "milliseconds": d * (i + 1.0)} for d in depths for i, n in enumerate(names)]
    figure = bars.panels(rows, x="depth", panel="D = {}")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["D = 3", "D = 30"]
    for ax, depth in zip(figure.axes, depths, strict=True):
        assert ax.get_xscale() == "linear" and ax.get_xlim()[0] == 0 and 3 * depth < ax.get_xlim()[1] < 4 * depth
        assert [bar.get_width() for bar in ax.patches] == [2 * depth, 3 * depth]
        (floor,) = ax.lines
        assert list(floor.get_xdata()) == [depth, depth]
    ax = bars.draw(rows, x="depth", y="milliseconds", group="implementation")
    assert ax.get_yscale() == "linear" and ax.get_ylim()[0] == 0 and len(ax.patches) == 6
    with pytest.raises(ValueError, match="besides 'floor'"):
        bars.panels(rows[:1], x="depth")
