"""The table of denoising models, its pictures, and the commands that sample from a run."""

import json
import re

import pytest
import torch

from dither import cli
from dither.cli import errors
from dither.experiments.denoising import digits, pictures, recipes

SMALL = digits.Config(
    methods=("dae", "gsn-2", "dae-multiscale"), width=20, epochs=2, checkpoints=2, samples=60, chains=6, steps=40, burn_in=5
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gsn")
    notes = []
    return folder, digits.run(SMALL, folder, notes.append), notes


def test_a_row_for_each_method_and_reference(trained):
    folder, result, _ = trained
    rows = {row["model"]: row for row in result["rows"]}
    assert list(rows) == [
        "dae",
        "gsn-2",
        "dae-multiscale",
        "real images",
        "PCA-50 reconstructions",
        "k-means centroids",
        "mean image",
    ]
    for method in ("dae", "gsn-2", "dae-multiscale"):
        row = rows[method]
        cell = json.loads((folder / f"{method}-0" / "evaluation.json").read_text())["result"]
        last = [one["parzen"] for one in cell["checkpoints"]]
        assert row["parzen_last"] == pytest.approx(sum(last) / 2) and row["parzen_last_n"] == len(last) == 2
        assert row["parzen_last_sd"] == pytest.approx(abs(last[0] - last[1]) / 2**0.5)
        assert row["seeds"] == 1 and row["parzen_sd"] is row["csl_sd"] is None
        assert row["csl"] < 0 and 0 <= row["precision"] <= 1 and 0 <= row["class_entropy"] <= 1 and row["stuck"] == 0
    assert rows["real images"]["kid"] < rows["dae"]["kid"]
    assert {name for name, _ in result["figures"]} == {
        f"{kind}-{method}"
        for kind in ("samples", "inpainting", "autocorrelation")
        for method in ("dae", "gsn-2", "dae-multiscale")
    }
    assert [name for name, _ in digits.figures(result["curves"])] == ["csl", "parzen", "learning"]


def test_finished_parts_are_not_repeated(trained):
    folder, result, _ = trained
    notes = []
    assert digits.run(SMALL, folder, notes.append)["rows"] == result["rows"]
    assert notes == []


def test_the_reported_checkpoint_is_the_best_on_validation(trained):
    folder, _, _ = trained
    cell = json.loads((folder / "gsn-2-0" / "evaluation.json").read_text())["result"]
    assert cell["best"]["parzen_valid"] == max(row["parzen_valid"] for row in cell["checkpoints"])


@pytest.mark.parametrize(("arguments", "name"), [([], "sample-3"), (["--clamp", "left"], "sample-3-left")])
def test_sample(trained, tmp_path, capsys, arguments, name):
    folder, _, _ = trained
    command = ["sample", str(folder / "gsn-2-0"), "--image", "3", "--steps", "22", "--out", str(tmp_path), *arguments]
    assert cli.main(command) == errors.OK
    paths = capsys.readouterr().out.split()
    assert [path.rsplit("/", 1)[1] for path in paths] == [f"{name}.svg", f"{name}.png"]
    first = (tmp_path / f"{name}.svg").read_bytes()
    assert cli.main(command) == errors.OK and (tmp_path / f"{name}.svg").read_bytes() == first  # the seed decides


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (["--image", "300"], errors.USAGE, "images 0 to 299"),
        (["--thin", "9", "--steps", "3"], errors.USAGE, "1 <= thin <= steps"),
        (["--clamp", "up"], errors.USAGE, "left"),
        (["--step", "1"], errors.MISSING, "step 1"),
    ],
)
def test_sample_says_what_is_wrong(trained, tmp_path, capsys, change, code, text):
    folder, _, _ = trained
    assert cli.main(["sample", str(folder / "gsn-2-0"), "--out", str(tmp_path), *change]) == code
    assert text in re.sub(r"\s+", " ", capsys.readouterr().err)


def test_sample_wants_a_run_of_its_kind(tmp_path, capsys):
    assert cli.main(["sample", str(tmp_path)]) == errors.MISSING
    (tmp_path / "config.json").write_text("{}")
    assert cli.main(["sample", str(tmp_path)]) == errors.USAGE
    assert "no run of a denoising model" in re.sub(r"\s+", " ", capsys.readouterr().err)


def test_plot_draws_what_a_run_can_show(trained, tmp_path, capsys):
    folder, _, _ = trained
    assert cli.main(["plot", str(folder / "dae-0"), "--out", str(tmp_path)]) == errors.OK
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {"samples.png", "inpainting.png", "autocorrelation.png", "learning.png"}


def test_halves():
    top, right = pictures.half((3, 5), "top").view(3, 5), pictures.half((3, 5), "right").view(3, 5)
    assert top.sum(1).tolist() == [5, 0, 0] and right.sum(0).tolist() == [0, 0, 0, 3, 3]
    with pytest.raises(ValueError, match="left, right, top, bottom"):
        pictures.half((3, 5), "middle")


def test_the_recipes_are_the_authors():
    units = 784
    for method, lr in (("dae", 10), ("dae-walkback", 10), ("gsn-2", 0.25)):
        model, optimizer, schedule = recipes.build(method, units, 10, 0)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(lr / units)
    assert schedule.gamma == 0.995
    optimizer = recipes.build("gsn-2", units, 10, 0)[1]
    p = optimizer.param_groups[0]["params"][0]
    before, p.grad = p.detach().clone(), torch.ones_like(p)
    optimizer.step()
    torch.testing.assert_close(before - p.detach(), torch.full_like(p, 0.5 * 0.25 / units))  # m = .5 0 + .5 g
    assert model.steps == 4 and recipes.build("dae-walkback", units, 10, 0)[0].steps == 5
    with pytest.raises(ValueError, match="gsn-2"):
        recipes.build("gsn-9", units, 10, 0)


def test_the_parts_of_dae_multiscale():
    """What the page says of it."""
    model = recipes.build("dae-multiscale", 784, None, 0)[0]
    assert [part.rate for part in model.corruption.parts] == [0.2, 0.4, 0.6, 0.8]
    assert model.corruption.weights.tolist() == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert model.reconstruction.components == 8 and model.steps == 1
    assert [module.scale for module in model.network if hasattr(module, "scale")] == [0.5, 0.5]
    assert [module.out_features for module in model.network if hasattr(module, "out_features")] == [1000, 1000, 8 * 785]
