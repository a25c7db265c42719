"""The benchmark of credit measures what it says: a row for each way, and in each the same gradient."""

from pathlib import Path

import pytest
import torch

import dither
from dither.benchmarks.credit import Config, run, steps, terms
from dither.benchmarks.gated_transformer import next_token_costs, problem
from dither.models.vae import BinaryVAE

SMALL = Config(batch_size=5, pixels=12, latents=6, repeats=2, sequences=4, length=12, width=16, gradients=40)


def test_a_row_for_every_way(tmp_path: Path) -> None:
    rows = run(SMALL, tmp_path)["rows"]
    ways = [(row["costs"], row["implementation"]) for row in rows]
    local, whole = ("static", "live", "windows"), ("static", "live", "separate")
    sequence = ("global", "causal", "traced")
    assert ways == [
        *(("local", way) for way in local), *(("whole", way) for way in whole), *(("sequence", way) for way in sequence)
    ]  # fmt: skip
    assert all(float(row["variance_saved"]) >= 1.5 for row in rows[-2:])
    assert float(rows[-1]["first_memory"]) <= 1.5


def test_traced_credit_of_a_causal_transformer_is_the_declared_one() -> None:
    """Embedding, LayerNorm, attention, dropout, cross-entropy, in two blocks."""
    torch.manual_seed(0)
    net, tokens = problem(batch=3, length=7, width=8, layers=2)

    def closure() -> torch.Tensor:
        return next_token_costs(net, tokens)

    traced, declared = (dither.ScoreFunction(net, credit=credit).credit_report(closure) for credit in ("traced", "causal"))
    for name, node in traced.nodes.items():
        assert torch.equal(node.influence, declared[name].influence)
    assert "scaled_dot_product" in str(traced) and "gated_transformer.py" not in str(traced), "dither's own lines are no user's"
    dither.testing.check_credit(dither.ScoreFunction(net, credit="causal"), closure, draws=1)
    with pytest.raises(dither.testing.CheckFailed, match=r"blocks\.0\.gate.*credit='aligned'.*scaled_dot_product"):
        dither.testing.check_credit(dither.ScoreFunction(net, credit="aligned"), closure, draws=1)


def test_followed_and_static_steps_make_the_same_gradient() -> None:
    torch.manual_seed(0)
    model, x = BinaryVAE((12, 6)), torch.rand(5, 12)
    gradients = []
    ways = steps(SMALL, model, "local", lambda: terms(model, x))
    for way in ("static", "live"):
        torch.manual_seed(1)
        for _ in range(2):
            ways[way]()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*gradients)
