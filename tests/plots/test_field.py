"""The field has an arrow for each point, as long as the move it stands for, and its marks are where they were said to be."""

import numpy as np
import pytest
import torch

from dither import plots
from dither.plots import field

DATA = torch.tensor([[0.0, 0.0], [1.0, 0.5], [2.0, -1.0]])
AT = torch.cartesian_prod(torch.linspace(-1, 3, 4), torch.linspace(-2, 2, 5))
EXPECTED = AT * 0.5 + 0.25
SAMPLES, PATH, ATTRACTORS = torch.rand(7, 2), torch.tensor([[0.0, 0.0], [0.5, 1.0], [1.0, 2.0]]), [[-1.0, 2.0], [3.0, 2.0]]


def artists(ax):
    """label -> positions of what is scattered, and the arrows' own."""
    (arrows,) = (artist for artist in ax.collections if hasattr(artist, "U"))
    dots = {artist.get_label(): np.asarray(artist.get_offsets()) for artist in ax.collections if artist is not arrows}
    return arrows, dots, {line.get_label(): line.get_xydata() for line in ax.lines}


def test_an_arrow_for_each_point_as_long_as_its_move():
    ax = field.draw(DATA, AT, EXPECTED)
    arrows, dots, lines = artists(ax)
    assert arrows.N == 20 and np.allclose(arrows.XY, AT)
    assert np.allclose(np.stack([arrows.U, arrows.V], 1), EXPECTED - AT)
    assert (arrows.angles, arrows.scale_units, arrows.scale) == ("xy", "xy", 1)  # in units of the data, not of the page
    assert list(dots) == ["data"] and (dots["data"] == DATA.numpy()).all() and not lines
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["expected move", "data"]


def test_shorter_arrows_are_said_to_be_so():
    ax = field.draw(DATA, AT, EXPECTED, length=0.5, title="Spiral")
    arrows, _, _ = artists(ax)
    assert np.allclose(np.stack([arrows.U, arrows.V], 1), (EXPECTED - AT) / 2)
    assert ax.get_legend().get_texts()[0].get_text() == "expected move × 0.5" and ax.get_title(loc="left") == "Spiral"


def test_samples_path_and_attractors_are_where_they_are():
    ax = field.draw(DATA, AT, EXPECTED, samples=SAMPLES, path=PATH, attractors=ATTRACTORS, ax=plots.new_axes())
    _, dots, lines = artists(ax)
    assert np.allclose(dots["samples"], SAMPLES) and (dots["spurious attractor"] == ATTRACTORS).all()
    assert (lines["walkback path"] == PATH.numpy()).all()
    assert (lines["_start"] == [[0, 0]]).all() and (lines["_end"] == [[1, 2]]).all()
    path = next(line for line in ax.lines if line.get_label() == "walkback path")
    assert path.get_linestyle() == ":" and path.get_color() == field.PATH
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["expected move", "data", "samples", "walkback path", "spurious attractor"]


def test_nothing_is_outside_the_frame():
    far = torch.tensor([[9.0, 0.0], [0.0, -8.0]])
    for kind in ("samples", "path", "attractors"):
        ax = field.draw(DATA, AT, EXPECTED, **{kind: far})
        assert ax.get_xlim()[0] < -1 and ax.get_xlim()[1] > 9 and ax.get_ylim()[0] < -8 and ax.get_ylim()[1] > 2


def test_two_panels_on_common_axes_with_one_legend():
    figure = field.side_by_side(
        DATA,
        AT,
        {"without walkback": EXPECTED, "with walkback": AT * 0.1},
        samples={"without walkback": SAMPLES, "with walkback": SAMPLES + 1},
        paths={"without walkback": PATH},
        attractors={"without walkback": [[-5.0, 2.0]]},
        title="A spiral",
    )
    left, right = figure.axes
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["without walkback", "with walkback"]
    assert left.get_xlim() == right.get_xlim() and left.get_xlim()[0] < -5 and left.get_ylim() == right.get_ylim()
    (_, dots, lines), (arrows, other, none) = artists(left), artists(right)
    assert np.allclose(np.stack([arrows.U, arrows.V], 1), AT * -0.9)
    assert set(dots) == {"data", "samples", "spurious attractor"} and set(other) == {"data", "samples"}
    assert np.allclose(other["samples"], SAMPLES + 1) and "walkback path" in lines and not none
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["expected move", "data"]
    assert len(figure.legends[0].get_texts()) == 5 and not left.get_legend() and figure.get_suptitle() == "A spiral"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: field.draw(DATA.T, AT, EXPECTED), r"data has shape \(2, 3\), expected \(n, 2\)"),
        (lambda: field.draw(DATA, AT[0], EXPECTED), r"at has shape \(2,\), expected \(m, 2\)"),
        (lambda: field.draw(DATA, AT, EXPECTED[:-1]), "expected has 19 points for 20 points in at"),
        (lambda: field.draw(DATA, AT, EXPECTED / 0), "expected has 40 values that are not finite"),
        (lambda: field.draw(DATA, AT, EXPECTED, samples=torch.ones(4, 3)), r"samples has shape \(4, 3\)"),
        (lambda: field.draw(DATA, AT, EXPECTED, path=torch.ones(2)), r"path has shape \(2,\), expected \(steps, 2\)"),
        (lambda: field.draw(DATA, AT, EXPECTED, attractors=[]), "attractors has shape"),
        (lambda: field.draw(DATA, AT, EXPECTED, length=0), "length is 0"),
        (lambda: field.draw(DATA, AT, EXPECTED, length=float("nan")), "length is nan"),
        (lambda: field.side_by_side(DATA, AT, {}), "expected is empty"),
        (lambda: field.side_by_side(DATA, AT, {"a": EXPECTED}, paths={"b": PATH}), r"paths has \['b'\], but the panels are"),
    ],
)
def test_refuses(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize(
    "draw",
    [
        lambda: field.draw(DATA, AT, EXPECTED, path=PATH, attractors=ATTRACTORS).figure,
        lambda: field.side_by_side(DATA, AT, {"a": EXPECTED, "b": AT * 0.1}, samples={"a": DATA}, title="both"),
    ],
)
def test_the_bytes_are_the_same_every_time(tmp_path, draw):
    first, other = draw(), draw()
    saved = [[path.read_bytes() for path in plots.save(figure, tmp_path / "a")] for figure in (first, first, other, first)]
    assert saved[0] == saved[1] == saved[2] == saved[3]
