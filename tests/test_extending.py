"""What docs/extending.md says of nodes and estimators is what the code has; estimators are documented in one form."""

from __future__ import annotations

import inspect
import io
import re
import tokenize
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import dither
from dither import methods
from dither.nodes import CAPABILITIES

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text(encoding="utf-8")
LISTED = {kind.__name__: kind for kind in map(methods.class_of, methods.names())}
DOCUMENTED = [*LISTED.values(), dither.PerNode, dither.Episodes]
NODES = ("Bernoulli", "Categorical", "StochasticPool2d")
LABEL = re.compile(r" {2}\((\d)(?:; [^)]*)?\)$", re.MULTILINE)  # of a line of a formula, at its end


def table(heading: str) -> list[list[str]]:
    """The rows of the table under a heading, cell by cell, without its head."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`(\w+)", cell)


def net_of(node: str) -> tuple[nn.Module, Tensor]:
    """A small net with one node of that class, and inputs for it."""
    if node == "StochasticPool2d":
        pool = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), dither.StochasticPool2d(2))
        return nn.Sequential(*pool, nn.Flatten(), nn.Linear(4, 1)), torch.rand(2, 1, 4, 4)
    return nn.Sequential(nn.Linear(2, 3), getattr(dither, node)(), nn.Linear(3, 1)), torch.rand(2, 2)


def test_the_table_of_capabilities_is_that_of_the_code() -> None:
    rows = {row[0].strip("`"): sorted(names(row[2])) for row in table("Capabilities")}
    expected = {c: sorted(name for name, kind in LISTED.items() if c in kind.requires) for c in CAPABILITIES}
    expected["none of them"] = sorted(name for name, kind in LISTED.items() if not kind.requires)
    assert rows == expected


def test_what_a_node_defines_is_what_nodes_have() -> None:
    methods_of_nodes = [name for row in table("A node") for name in names(row[0])]
    capabilities = [name for row in table("Capabilities") for name in names(row[1])]
    assert {"sample", "log_prob", "partition"} <= set(methods_of_nodes)
    assert set(CAPABILITIES) <= set(capabilities)
    assert [name for name in methods_of_nodes + capabilities if not hasattr(dither.Node, name)] == []


def test_the_table_of_nodes_has_every_estimator() -> None:
    rows = table("Which estimator takes which node")
    assert [row[0].strip("`") for row in rows] == sorted(LISTED)
    assert f"| estimator | {' | '.join(f'`{node}`' for node in NODES)} |" in PAGE


@pytest.mark.parametrize("row", table("Which estimator takes which node"), ids=lambda row: row[0].strip("`"))
def test_the_table_of_nodes_is_that_of_the_code(row: list[str]) -> None:
    kind = LISTED[row[0].strip("`")]
    for node, cell in zip(NODES, row[1:], strict=True):
        net, x = net_of(node)
        built = next(module for module in net.modules() if isinstance(module, dither.Node))
        assert cell == ("yes" if all(map(built.has, kind.requires)) else "no")
        if cell == "no":
            with pytest.raises(TypeError, match=f"{kind.__name__} cannot credit node"):
                kind(net)
        elif kind is dither.Auto:  # one call is many audits
            kind(net)
        else:
            flat = nn.Sequential(nn.Flatten(), nn.LazyLinear(1))  # of images NVIL has no baseline by default
            estimator = kind(net, baseline=flat) if kind is dither.NVIL else kind(net)
            estimator(lambda net=net, x=x: net(x).flatten(1).sum(1)).backward()


@pytest.mark.parametrize("kind", DOCUMENTED, ids=lambda kind: kind.__name__)
def test_an_example_follows_the_first_sentence_of_an_estimator(kind: type) -> None:
    paragraphs = inspect.getdoc(kind).split("\n\n")
    assert paragraphs[0].endswith(".")
    assert paragraphs[1].startswith(">>> ") and "torch, dither\n" in paragraphs[1]
    shown = [line for line in paragraphs[1].splitlines() if not line.startswith((">>> ", "... "))]
    assert shown, "an example has an output that is checked"
    assert not any(">>> " in paragraph for paragraph in paragraphs[2:])


@pytest.mark.parametrize("kind", DOCUMENTED, ids=lambda kind: kind.__name__)
def test_comments_name_lines_of_the_formula_that_exist(kind: type) -> None:
    text = inspect.getdoc(kind).rpartition(">>> ")[2]
    labels = LABEL.findall(text)
    assert labels == sorted(set(labels)), "lines are numbered from the top"
    assert ("Formula" in text) == bool(labels)
    source = Path(inspect.getfile(kind)).read_text(encoding="utf-8")
    comments = [t.string for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT]
    named = {label for comment in comments for label in re.findall(r"\((\d)\)", comment)}
    assert named <= set(labels)
    assert named or not labels or kind is dither.Episodes  # whose terms are computed in returns.py and traces.py
