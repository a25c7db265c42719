"""The benchmark of credit measures what it says: a row for each way, and in each the same gradient."""

from pathlib import Path

import torch

from dither.benchmarks.credit import Config, run, steps, terms
from dither.models.vae import BinaryVAE

SMALL = Config(batch_size=5, pixels=12, latents=6, repeats=2)


def test_a_row_for_every_way(tmp_path: Path) -> None:
    rows = run(SMALL, tmp_path)["rows"]
    ways = [(row["costs"], row["implementation"]) for row in rows]
    local, whole = ("static", "live", "windows"), ("static", "live", "separate")
    assert ways == [*(("local", way) for way in local), *(("whole", way) for way in whole)]


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
