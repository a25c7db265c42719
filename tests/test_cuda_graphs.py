"""Seeds that a recording hands out; and on a GPU, that a CUDA graph does what the same calls do without one."""

import subprocess
import sys

import pytest
import torch

from dither import chains, corruption, nodes, noise, reconstruction
from dither.models.gsn import GSN
from dither.training.loop import fit

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


# --- everywhere ---------------------------------------------------------------------------------------------------------
def test_many_seeds_are_those_drawn_one_by_one():
    torch.manual_seed(3)
    expected = [int(noise.draw_seed()) for _ in range(40)]
    torch.manual_seed(3)
    out = torch.empty(40, dtype=torch.int64)
    assert noise.draw_seeds(out) is out
    assert out.tolist() == expected


def test_seeds_come_from_a_source_within_the_context_alone():
    torch.manual_seed(3)
    expected = int(noise.draw_seed())
    torch.manual_seed(3)
    with pytest.raises(KeyError), noise.seeds_from(iter(torch.tensor([5, 6]))):
        assert [int(noise.draw_seed()), int(noise.draw_seed())] == [5, 6]
        raise KeyError
    assert int(noise.draw_seed()) == expected


def test_a_graph_needs_a_gpu():
    model = GSN((6, 5))
    x = torch.zeros(4, 6)
    with pytest.raises(ValueError, match="cuda_graph is set for data on cpu"):
        train(model, x, cuda_graph=True)
    with pytest.raises(ValueError, match="cuda_graph is set for chains on cpu"):
        chains.run(model, x, 3, cuda_graph=True)


# --- on a GPU -----------------------------------------------------------------------------------------------------------
def train(model, x, optimizer=None, **options):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 1e-3)
    y = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    return fit(
        model,
        lambda closure: closure().mean(),
        optimizer,
        lambda model, x, _: model.cost(x),
        (x, y),
        epochs=4,
        batch_size=10,
        seed=2,
        scheduler=torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
        **options,
    )


def data(count=45):
    """No multiple of the batch size: the last batch of an epoch is another graph."""
    return torch.rand(count, 64, generator=torch.Generator().manual_seed(1)).cuda()


def recipe():
    torch.manual_seed(0)
    model = GSN((64, 128, 128)).cuda()
    return model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.5)


def mixture():
    torch.manual_seed(0)
    modes = reconstruction.Mixture(reconstruction.Bernoulli(), 3)
    hidden = [nodes.NoisyReLU(scale=0.5), nodes.Bernoulli(values=(-1, 1))]
    model = GSN((64, 128, 32), hidden=hidden, corruption=corruption.SaltAndPepper(0.3), reconstruction=modes, tied=False).cuda()
    return model, torch.optim.Adam(model.parameters(), 1e-3, capturable=True)


@on_gpu
@pytest.mark.parametrize("build", [recipe, mixture])
def test_training_is_the_same(build):
    results = []
    for cuda_graph in (False, True):
        model, optimizer = build()
        records = train(model, data(), optimizer, cuda_graph=cuda_graph)
        results.append((records, [p.detach().clone() for p in model.parameters()]))
    (records, eager), (graph_records, graphed) = results
    assert records == graph_records
    assert records[0]["train_loss"] != records[1]["train_loss"]
    for a, b in zip(eager, graphed, strict=True):
        assert torch.equal(a, b)


@on_gpu
@pytest.mark.parametrize("build", [recipe, mixture])
@pytest.mark.parametrize("clamped", [False, True])
def test_chains_are_the_same(build, clamped):
    model, _ = build()
    x = (data(7) > 0.5).float()
    clamp = torch.arange(64, device="cuda") < 32 if clamped else None
    runs = [chains.run(model, x, 12, burn_in=3, thin=2, clamp=clamp, seed=4, cuda_graph=g) for g in (False, True)]
    for name in ("x", "mean"):
        assert torch.equal(getattr(runs[0], name), getattr(runs[1], name))
    assert all(torch.equal(a, b) for a, b in zip(runs[0].state.hidden, runs[1].state.hidden, strict=True))
    assert (runs[1].x[0] != runs[1].x[1]).any()


@on_gpu
def test_noise_is_that_of_the_processor():
    logits = torch.randn(9, 300, generator=torch.Generator().manual_seed(1))
    modules = [
        nodes.Bernoulli(),
        nodes.NoisyReLU(scale=0.3),
        corruption.SaltAndPepper(0.4),
        nodes.NoisyTanh(before=0.3, after=0.2),
    ]
    for module in modules:
        torch.manual_seed(5)
        here = module(logits)
        torch.manual_seed(5)
        assert torch.equal(module(logits.cuda()).cpu(), here), module


@on_gpu
def test_costs_are_those_of_the_processor():
    model = GSN((64, 128, 128))
    x = data(5).cpu()
    torch.manual_seed(5)
    here = model.cost(x)
    torch.manual_seed(5)
    torch.testing.assert_close(model.cuda().cost(x.cuda()).cpu(), here, rtol=1e-4, atol=1e-2)


@on_gpu
def test_infinite_logits_are_legal():
    family = reconstruction.Bernoulli()
    a, x = torch.tensor([[torch.inf, -torch.inf, 0.0], [torch.inf, 1.0, 2.0]]), torch.tensor([[1.0, 0, 1], [0, 1, 1]])
    assert torch.equal(family.log_prob(a.cuda(), x.cuda()).cpu(), family.terms(a, x).sum(-1))


@on_gpu
@pytest.mark.parametrize(
    ("step", "message"), [("torch.rand(1), x + 1", "generator on the CPU"), ("x, x * float(x.sum())", "cannot be recorded")]
)
def test_what_cannot_be_recorded_is_refused(step, message):
    """In a process of its own: after a failed recording torch's generator on the GPU is of no use."""
    code = f"""
import torch
from dither.cuda_graphs import Graphed
x = torch.ones(3, device="cuda")
graphed = Graphed(lambda x: ({step}))
for _ in range(3):
    graphed(x)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert message in done.stderr


@on_gpu
def test_shapes_and_numbers_that_change():
    from dither.cuda_graphs import Graphed

    factor = [2.0]
    graphed = Graphed(lambda x, y: (x * factor[0], y))
    for _ in range(5):
        for size in (3, 4):
            x = torch.randn(size, device="cuda")
            assert torch.equal(graphed(x, None)[0], 2 * x)
    factor[0] = 3.0
    assert torch.equal(graphed(x, None)[0], 2 * x)
    graphed.reset()
    assert torch.equal(graphed(x, None)[0], 3 * x)
