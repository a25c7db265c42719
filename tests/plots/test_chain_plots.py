"""Traces of chains: the lines and strips hold the numbers of their arguments, stuck chains are counted, nothing is hidden."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from dither import plots
from dither.plots import chains

NAN = float("nan")
FAST = torch.tensor([[1.0, 0.5, 0.25, 0.0], [1.0, 0.3, 0.05, 0.2]])
SLOW = torch.tensor([[1.0, 0.9, 0.8, 0.7, 0.6], [NAN] * 5])


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def lines(ax):
    return {line.get_label(): line.get_xydata().tolist() for line in ax.lines if not line.get_label().startswith("_")}


def test_a_line_is_the_mean_of_its_chains_and_the_band_their_range():
    ax = chains.autocorrelation({"GSN": FAST, "RBM": SLOW, "one": [1.0, 0.1, 0.0, 0.0]}, quantity="ink", title="Mixing")
    curves = lines(ax)
    assert list(curves) == ["GSN (n = 2)", "RBM (n = 1, 1 never moved)", "one (n = 1)"] == texts(ax.get_legend())
    assert np.allclose(curves["GSN (n = 2)"], [[0, 1], [1, 0.4], [2, 0.15], [3, 0.1]])
    assert np.allclose(curves["RBM (n = 1, 1 never moved)"], [[0, 1], [1, 0.9], [2, 0.8], [3, 0.7]])  # not its lag 4
    (band,) = ax.collections
    box = band.get_paths()[0].get_extents()
    assert (box.y0, box.y1) == (0, 1) and ax.get_xlim() == (0, 3)
    (at_two,) = np.unique([v for v in band.get_paths()[0].vertices if v[0] == 2], axis=0)[None]
    assert np.allclose(at_two, [[2, 0.05], [2, 0.25]])
    assert ax.get_ylabel() == "autocorrelation of ink" and ax.get_title(loc="left") == "Mixing"


def test_fewer_lags_and_a_method_that_never_moved():
    ax = chains.autocorrelation({"GSN": FAST, "stuck": [NAN] * 9}, lags=2)
    curves = lines(ax)
    assert np.allclose(curves["GSN (n = 2)"], [[0, 1], [1, 0.4], [2, 0.15]])
    assert "stuck (n = 0, 1 never moved)" in texts(ax.get_legend())
    assert np.isnan(np.array(curves["stuck (n = 0, 1 never moved)"])[:, 1]).all()


def test_a_strip_has_each_step_in_the_colour_of_its_class():
    labels = {"GSN": torch.tensor([0, 1, 1, 2, 0]), "RBM": np.array([9, 9, 9, 9, 8])}
    ax = chains.classes(labels, first=10, title="Classes")
    expected = [[to_rgb(chains.CLASSES[label]) for label in chain] for chain in labels.values()]
    assert np.allclose(np.asarray(ax.images[0].get_array()), expected)
    assert ax.images[0].get_extent() == [9.5, 14.5, 1.5, -0.5] and ax.get_title(loc="left") == "Classes"
    assert [text.get_text() for text in ax.get_yticklabels()] == ["GSN (3 switches)", "RBM (1 switch)"]
    assert texts(ax.figure.legends[0]) == [str(i) for i in range(10)]
    assert len(set(chains.CLASSES)) == 10


def test_named_classes():
    ax = chains.classes({"a": [0, 1, 1]}, names=["cat", "dog", "bird"], ax=plots.new_axes())
    legend = ax.figure.legends[0]
    assert texts(legend) == ["cat", "dog", "bird"]
    assert [patch.get_facecolor()[:3] for patch in legend.get_patches()] == [to_rgb(color) for color in chains.CLASSES[:3]]


ROWS = [
    {"method": m, "seed": s, "samples": n, "csl": level + np.log10(n) + s}
    for m, level in (("GSN", -110.0), ("DBN", -150.0))
    for s in (0, 1)
    for n in (10_000, 100, 1000)
]


def test_the_likelihood_is_drawn_against_the_logarithm_of_the_samples():
    ax = chains.likelihood([*ROWS, {"method": "RBM", "samples": 100, "csl": -130.0}, {"method": "RBM", "samples": 1000}])
    curves = lines(ax)
    assert ax.get_xscale() == "log" and list(curves) == ["GSN (n = 2)", "DBN (n = 2)", "RBM (n = 1)"] == texts(ax.get_legend())
    assert curves["GSN (n = 2)"] == [[100, -107.5], [1000, -106.5], [10_000, -105.5]] and curves["RBM (n = 1)"] == [[100, -130]]
    assert [band.get_paths()[0].get_extents().intervaly.tolist() for band in ax.collections] == [[-108, -105], [-148, -145]]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: chains.autocorrelation({}), "curves is empty"),
        (lambda: chains.autocorrelation({"a": torch.ones(2, 2, 2)}), r"curves\['a'\] has shape .* expected \(chains, lags\)"),
        (lambda: chains.autocorrelation({"a": [1.0, NAN, 0.0]}), r"curves\['a'\] has 3 lags and 1 values that are not finite"),
        (lambda: chains.autocorrelation({"a": [float("inf")] * 3}), "3 values that are not finite"),
        (lambda: chains.autocorrelation({"a": [1.0]}), "1 lags"),
        (lambda: chains.autocorrelation({"a": FAST, "b": SLOW}, lags=4), "lags is 4, expected 1 to 3"),
        (lambda: chains.autocorrelation({"a": FAST}, lags=0), "lags is 0"),
        (lambda: chains.classes({}), "labels is empty"),
        (lambda: chains.classes({"a": [0, 1], "b": [0, 1, 2]}), r"labels has chains of \[2, 3\] steps"),
        (lambda: chains.classes({"a": [0, -1]}), r"labels\['a'\] has values from -1 to 0, expected 0 to 0"),
        (lambda: chains.classes({"a": [0.5, 1]}), r"labels\['a'\] has values from 0.5 to 1"),
        (lambda: chains.classes({"a": [0, 3]}, names=["x", "y"]), "from 0 to 3, expected 0 to 1"),
        (lambda: chains.classes({"a": [0, 10]}), "11 classes and only 10 colours"),
        (lambda: chains.classes({"a": [[0, 1]]}), r"labels\['a'\] has shape \(1, 2\), expected \(steps,\)"),
        (lambda: chains.likelihood([{"samples": 10}]), "no record has both 'samples' and 'csl'; 1 records have samples"),
        (lambda: chains.likelihood([{"samples": 0, "csl": -1.0}]), "samples = 0, it must be positive"),
    ],
)
def test_refuses(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize(
    "draw",
    [
        lambda: chains.autocorrelation({"GSN": FAST, "RBM": SLOW}),
        lambda: chains.classes({"a": [0, 1, 1, 7], "b": [3, 3, 9, 9]}),
        lambda: chains.likelihood(ROWS),
    ],
)
def test_the_bytes_are_the_same_every_time(tmp_path, draw):
    first, other = draw().figure, draw().figure
    saved = [[path.read_bytes() for path in plots.save(figure, tmp_path / "a")] for figure in (first, first, other, first)]
    assert saved[0] == saved[1] == saved[2] == saved[3]
