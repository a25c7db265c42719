"""The Lightning block of the docs, run where Lightning is installed."""

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parent.parent.parent / "docs" / "integrations.md"
BLOCK = re.compile(r"^```python(?: lightning)?\n(.*?)^```", re.DOTALL | re.MULTILINE)


def test_the_block_of_the_page_trains() -> None:
    pytest.importorskip("lightning")
    torch.manual_seed(0)
    names: dict = {}
    for block in BLOCK.findall(PAGE.read_text()):
        exec(compile(block, PAGE.name, "exec"), names)
    assert names["trainer"].global_step == 4


def test_the_page_has_such_a_block() -> None:
    """Else the test above would pass and run nothing."""
    assert sum("LightningModule" in block for block in BLOCK.findall(PAGE.read_text())) == 1
