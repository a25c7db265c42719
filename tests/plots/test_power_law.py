"""Error against examples, and points in pairs of units: where each is drawn, and what is refused."""

import pytest

from dither.plots import power_law, scatter_pairs

ROWS = [
    {"space": space, "method": method, "n": n, "kl": c / n, "kl_min": c / n / 2, "kl_max": 2 * c / n}
    for space in ("a", "b", "c")
    for method, c in (("examples", 1.0), ("count", 2.0))
    for n in (1000, 10, 100)
]
POINTS = [{"set": name, "x": i, "y": i * k} for k, name in enumerate(("training", "generated")) for i in range(5)]


def test_a_line_per_method_sorted_with_a_guide_below():
    figure = power_law.draw(ROWS, reference="examples")
    assert [ax.get_title(loc="left") for ax in figure.axes if ax.get_visible()] == ["a", "b", "c"]
    ax = figure.axes[0]
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert list(lines) == ["examples", "count", "slope -1"]
    assert lines["count"].get_xydata().tolist() == [[10, 0.2], [100, 0.02], [1000, 0.002]]
    assert lines["examples"].get_linestyle() == "--" and lines["examples"].get_color() == "black"
    guide = lines["slope -1"].get_ydata()
    assert guide == pytest.approx([1 / 30, 1 / 300, 1 / 3000])
    assert len(ax.collections) == 2 and (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*lines, "band: minimum to maximum"]


def test_what_is_missing_is_left_out_and_nothing_is_an_error():
    rows = [{"n": 10, "kl": 1.0}, {"n": 100, "kl": None}, {"n": 1000, "kl": 0.01}]
    (ax,) = power_law.draw(rows, power=None).axes
    assert [line.get_xydata().tolist() for line in ax.get_lines()] == [[[10, 1], [1000, 0.01]]]
    with pytest.raises(ValueError, match="positive 'kl'"):
        power_law.draw([{"n": 10, "kl": None}])


def test_a_row_of_panels_for_each_set():
    figure = scatter_pairs.draw(POINTS, pairs=[("x", "y"), ("y", "x")])
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["training", "", "generated", ""]
    assert figure.axes[2].get_lines()[0].get_xydata().tolist() == [[i, i] for i in range(5)]
    assert figure.axes[0].get_ylim() == figure.axes[2].get_ylim()  # though all y of the first set are 0
    with pytest.raises(ValueError, match="both 'x' and 'z'"):
        scatter_pairs.draw(POINTS, pairs=[("x", "z")])
