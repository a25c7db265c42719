"""Completions of half-given digits: every measure against brute force, every method against what it must keep."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dither import chains, data, metrics, noise
from dither.cli import main
from dither.experiments.denoising.training import Options, train
from dither.experiments.inpainting import completions, evaluation, models
from dither.experiments.inpainting.completions import Task, complete
from dither.experiments.inpainting.config import METHODS, SIZES, Config, sizes
from dither.experiments.inpainting.evaluation import Part
from dither.experiments.inpainting.experiment import along_orders, run
from dither.experiments.inpainting.models import Models
from dither.models import gsn, masks

TINY = Config(data="digits", images=6, completions=3, gsn_width=16, gsn_epochs=1, multiscale_epochs=1, burn_in=3, states=4,
              conditional_widths=(16,), conditional_epochs=1, passes=4, orders=3, shown=5)  # fmt: skip
CLAMPS = masks.halves((8, 8))


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    notes: list[str] = []
    folder = tmp_path_factory.mktemp("gsn-inpainting")
    return SimpleNamespace(folder=folder, notes=notes, **run(TINY, folder, notes.append))


def task(x=None, chain_models=None, conditional=None, config=TINY, **more):
    digits = data.digits()
    x = (digits.test.x[:6] > 0.5).float() if x is None else x
    train = (digits.train.x > 0.5).float()
    classify = metrics.feature_net("digits").classify
    parts = {"train": train, "y": digits.test.y[: len(x)], "classify": classify, "clamps": CLAMPS} | more
    own = Models(chain_models or {}, conditional)
    return Task(config, parts["train"], x, parts["y"], parts["classify"], parts["clamps"], own)


def trained(result):
    digits = data.digits()
    train = (torch.cat((digits.train.x, digits.valid.x)) > 0.5).float()
    own = models.trained(TINY, train, result.folder, lambda text: None)[0]
    return {"chain_models": own.chains, "conditional": own.any_conditional}


def test_a_row_for_every_method_and_reference(result):
    names = ["original", "given half", *METHODS, "any-conditional, pixel by pixel"]
    assert [row["method"] for row in result.rows] == names
    row = {row["method"]: row for row in result.rows}
    assert {name for name in names if row[name]["nats"] is not None} == {*METHODS[:5], names[-1]}
    assert all(row[name]["nats"] > 0 for name in (*METHODS[:5], names[-1]))
    for method in METHODS:
        halves = [row[method][half] for half in CLAMPS]
        assert row[method]["agreement"] == pytest.approx(sum(halves) / 4) and 0 <= row[method]["distance"] <= 1
        assert 1 <= row[method]["labels"] <= 3 and row[method]["ms"] > 0
    digits = data.digits().test
    seen = metrics.feature_net("digits").classify((digits.x[:6] > 0.5).float())
    assert row["original"]["agreement"] == pytest.approx(float((seen == digits.y[:6]).double().mean()))
    assert row["original"]["error"] == 0 and row["given half"]["error"] > 0.1
    assert [name for name, _ in result.figures] == list(METHODS)


def test_trainings_are_kept(result):
    notes: list[str] = []
    again = run(TINY, result.folder, notes.append)
    assert [{**row, "ms": 0} for row in again["rows"] if row["ms"]] == [{**row, "ms": 0} for row in result.rows if row["ms"]]
    assert not any("epoch" in note for note in notes)
    assert sum("epoch" in note for note in result.notes) == 3
    with pytest.raises(ValueError, match="a run with other lr"):
        run(replace(TINY, lr=0.1, methods=("any-conditional",)), result.folder, notes.append)


# --- measures ---------------------------------------------------------------------------------------------------------
def test_measures_are_those_of_all_pairs():
    work = task()
    clamp = CLAMPS["left"]
    others = torch.rand(6, 4, 64, generator=torch.Generator().manual_seed(0)).round()
    samples = torch.where(clamp, work.x.unsqueeze(1), others)
    values = evaluation.evaluate(work, samples, clamp)
    for i in range(6):
        pairs = [float((a != b)[~clamp].double().mean()) for a, b in itertools.combinations(samples[i], 2)]
        assert float(values["distance"][i]) == pytest.approx(sum(pairs) / len(pairs))
        on = (samples[i, :, ~clamp].sum(1) > 16).double()
        assert float(values["white"][i]) == pytest.approx(float(on.mean()))
        labels = work.classify(samples[i]).tolist()
        assert values["labels"][i] == len(set(labels))
        assert float(values["agreement"][i]) == pytest.approx(labels.count(int(work.y[i])) / 4)
        assert float(values["error"][i]) == pytest.approx(float((samples[i] != work.x[i])[:, ~clamp].double().mean()))


def test_errors_are_over_images():
    value = torch.tensor([[0.0, 1, 1, 0], [0.5, 1, 1, 1]], dtype=torch.float64)  # two halves of four images
    parts = [Part(half, dict.fromkeys(evaluation.METRICS, v), -v) for half, v in zip("ab", value, strict=True)]
    row = evaluation.summary(parts)
    mean = value.mean(0)
    assert (row["agreement"], row["a"], row["b"]) == (0.6875, 0.5, 0.875)
    assert row["agreement_error"] == row["nats_error"] == pytest.approx(float(mean.std()) / 2) and row["nats"] == 0.6875


def test_the_likelihood_of_chains_is_csl():
    """Of all chains and states of one image, on its free pixels, by `metrics.csl` (which wants two examples)."""
    torch.manual_seed(0)
    model, x, clamp = gsn.GSN((64, 20, 20)), task().x[:3], CLAMPS["top"]
    state = completions.clamped_chains(model, x.unsqueeze(1).repeat(1, 5, 1), clamp, 2, seed=1)
    log_prob = completions.chain_log_prob(model, state, x, clamp, 23, seed=2)
    assert torch.equal(log_prob, completions.chain_log_prob(model, state, x, clamp, 23, seed=2))
    means = []
    for index, steps in ((0, 10), (10, 10), (20, 3)):
        seed = noise.step_seed(2, index)
        chain = chains.run(model, state, steps, clamp=clamp, seed=seed)
        state = chain.state
        means.append(chain.mean.view(steps, 3, 5, 64))
    for i in range(3):
        logits = torch.logit(torch.cat(means)[:, i, :, ~clamp].flatten(0, 1).double())
        expected = metrics.csl(logits, x[i, ~clamp].expand(2, -1))[-1]
        assert expected["samples"] == 115 and float(log_prob[i]) == pytest.approx(expected["csl"], abs=1e-4)


def test_along_orders_is_the_mean_over_orders():
    class Scripted:
        values = iter(torch.arange(12.0))  # four halves of three orders

        def log_likelihood(self, x, order, known):
            assert order is None
            return next(self.values) * torch.tensor([1.0, 3.0])

    work = task(x=task().x[:2], conditional=Scripted())
    row = along_orders(work, lambda text: None)
    assert row["nats"] == pytest.approx(-5.5 * 2) and row["spread"] == pytest.approx(((1 + 9) / 2) ** 0.5)
    assert row["nats_error"] == pytest.approx(5.5 * 2 / 2**0.5 / 2**0.5)


# --- methods ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
def test_what_is_clamped_stays_and_the_rest_is_sampled(result, method):
    work = task(**trained(result))
    for name, clamp in CLAMPS.items():
        completed = complete(work, method, clamp, seed=3)
        samples = completed.samples
        assert samples.shape == (6, 3, 64) and ((samples == 0) | (samples == 1)).all(), name
        assert (samples == work.x.unsqueeze(1))[:, :, clamp].all() and (samples != work.x.unsqueeze(1))[:, :, ~clamp].any()
        assert (completed.log_prob is None) == (method in ("nearest", "random")) and (samples[:, 0] != samples[:, 1]).any()
        assert torch.equal(complete(work, method, clamp, seed=3).samples, samples)


def test_passes_are_those_asked_for():
    class Recorded:
        def sample(self, x, known, passes):
            self.passes = passes
            return x

        def log_likelihood(self, x, order, known, passes):
            assert (order, passes) == (None, self.passes)
            return x.sum(1)

    for method, passes in (("any-conditional", 1), ("any-conditional-passes", 4)):
        model = Recorded()
        work = task(conditional=model)
        assert torch.equal(complete(work, method, CLAMPS["left"], 0).log_prob, work.x.sum(1)) and model.passes == passes


def test_neighbours_are_the_nearest_in_the_given_half():
    work = task()
    for clamp in CLAMPS.values():
        samples = complete(work, "nearest", clamp, 0).samples
        away = (work.x.unsqueeze(1) != work.train)[:, :, clamp].sum(2)
        for i in range(6):
            last = away[i].sort().values[2]
            near = work.train[away[i] <= last][:, ~clamp]
            assert all((row[~clamp] == near).all(1).any() for row in samples[i])
    copies = task(x=work.train[:6], y=data.digits().train.y[:6])
    own = complete(copies, "nearest", CLAMPS["left"], 0).samples
    assert sum(bool((row == x).all(1).any()) for row, x in zip(own, copies.x, strict=True)) >= 5  # but for equal halves


@pytest.mark.parametrize("method", ["chain", "chain-from-data", "chain-multiscale"])
def test_where_chains_start(method):
    model, seen, clamp = gsn.GSN((64, 8)), [], CLAMPS["right"]
    model.start = lambda rows: seen.append(rows) or chains.State(rows)
    work = task(
        chain_models={"chain-multiscale" if method == "chain-multiscale" else "chain": model},
        config=replace(TINY, completions=50),
    )
    complete(work, method, clamp, seed=0)
    start = seen[0].view(6, 50, 64)
    assert (start == work.x.unsqueeze(1))[:, :, clamp].all()
    free = start[:, :, ~clamp].flatten(0, 1)
    if method != "chain-from-data":
        assert abs(float(free.mean()) - 0.5) < 0.02
    else:
        assert all((row == work.train[:, ~clamp]).all(1).any() for row in free) and len(free.unique(dim=0)) > 100


# --- command ----------------------------------------------------------------------------------------------------------
def test_the_command_takes_a_trained_run(tmp_path, capsys):
    x = data.digits().train.x[:50]
    options = Options(seed=0, epochs=1, width=8)
    train("gsn-1", x, tmp_path / "gsn", "digits", options, lambda text: None)
    train("dae-multiscale", x, tmp_path / "multiscale", "digits", options, lambda text: None)
    tiny = ["--images", "3", "--completions", "2", "--shown", "2", "--burn-in", "1", "--states", "2"]
    command = ["experiment", "gsn-inpainting", "--data", "digits", *tiny, "--methods", "chain", "chain-multiscale", "random"]
    command += ["--gsn-run", str(tmp_path / "gsn"), "--multiscale-run", str(tmp_path / "multiscale")]
    assert main([*command, "--out", str(tmp_path / "out"), "--json"]) == 0
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["method"] for row in rows] == ["original", "given half", "chain", "chain-multiscale", "random"]
    assert "trained for 1 epochs" in captured.err and not (tmp_path / "out" / "gsn-2-0").exists()
    assert {p.name for p in (tmp_path / "out" / "figures").glob("*.png")} == {"chain.png", "chain-multiscale.png", "random.png"}
    train("gsn-1", x[:, :32], tmp_path / "other", "half", options, lambda text: None)
    with pytest.raises(ValueError, match="a model of 32 units: digits has 64"):
        run(replace(TINY, gsn_run=tmp_path / "other"), tmp_path / "out", lambda text: None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": "omniglot"}, "data is 'omniglot': there is a classifier for mnist and digits"),
        ({"methods": ("x",)}, "no method 'x'"),
        ({"completions": 1}, "completions=1"),
        ({"shown": 7}, "shown=7"),
    ],
)
def test_errors(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        run(replace(TINY, **change), tmp_path)


def test_sizes_of_the_data_fill_what_is_left_open():
    assert sizes(Config(data="digits", gsn_width=7)) == replace(SIZES["digits"], gsn_width=7)
    assert sizes(Config()).conditional_widths == SIZES["mnist"].conditional_widths
