"""The report as a page: it parses, every table is filled, nothing is loaded, and the same rows give the same bytes."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from dither.auditing import COLUMNS, AuditReport, recommend, render_html

VOID = {"meta", "br", "hr", "img", "link"}


def rows(scale: float = 1.0, **more: Any) -> list[dict[str, Any]]:
    table = []
    for i, name in enumerate(["slow & <sure>", "fast"]):
        for parameter in ("overall", "0.weight"):
            variance = scale * (i + 1)
            table.append({
                **more, "estimator": name, "parameter": parameter, "bias": 0.1 * i, "bias_se": 0.01, "variance": variance,
                "mse": variance + 0.01 * i, "cosine": 0.5, "snr": None, "evaluations": 2, "milliseconds": 3.0,
                "efficiency": 0.3, "reference_norm": 1.0, "slope": 1.0, "slope_se": 0.0,
                "mean_norm": 1.0, "unbiased": i == 0, "reference": "exact, enumeration", "draws": 9,
            })  # fmt: skip
    return table


class Page(HTMLParser):
    """Tables as lists of rows of cells; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


def two_parts(**more: Any) -> str:
    parts = [(f"Step {step}", rows(1 / step, step=step), recommend(rows(1 / step))) for step in (8, 4)]
    return render_html(parts, **more)


def test_every_table_is_filled_and_best_comes_first() -> None:
    page = Page(AuditReport(rows(), "exact", 9).html("My <audit>"))
    overall, by_parameter = page.tables
    assert overall[0][:4] == ["estimator", "error at equal time", "descent at equal time", "bias"]
    assert [cells[0] for cells in overall[1:]] == [entry["estimator"] for entry in recommend(rows()).ranking]
    assert [cells[1] for cells in overall[1:]] == [f"{entry['error']:.3g}" for entry in recommend(rows()).ranking]
    assert by_parameter[0][:2] == ["parameter", "estimator"] and by_parameter[1][:2] == ["0.weight", "slow & <sure>"]
    for table in page.tables:
        assert len(table) == 3 and all(len(cells) == len(table[0]) and all(cells) for cells in table)
    assert recommend(rows()).reason in page.text and "My <audit>" in page.text
    assert all(text in page.text for text in COLUMNS.values())


def test_a_notebook_shows_the_table_and_the_recommendation() -> None:
    report = AuditReport(rows(), "exact", 9)
    page = Page(report._repr_html_())
    (table,) = page.tables
    assert table == Page(report.html()).tables[0] and len(table) == 3
    assert {attrs["title"] for _, attrs in page.tags if "title" in attrs} == set(COLUMNS.values())
    assert report.recommend().reason in page.text and "slow & <sure>" in page.text


def test_nothing_is_run_or_loaded_and_ids_are_unique() -> None:
    pytest.importorskip("matplotlib")
    text = two_parts(about={"command": "dither audit run", "draws": 9})
    page = Page(text)
    assert sum(tag == "svg" for tag, _ in page.tags) == 3, "one of the training, one of each part"
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object"}
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]*)\)", text)) | set(re.findall(r'href="#([^"]*)"', text))
    assert used and used <= set(ids)
    assert not re.search(r'(href|src)="(?!#)', text)
    assert ["command", "dither audit run"] in page.tables[-1]


def test_the_same_rows_give_the_same_bytes_whatever_the_users_settings() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    first = two_parts()
    with matplotlib.rc_context({"svg.hashsalt": None, "font.size": 30, "svg.fonttype": "none"}):
        assert two_parts() == first


def test_without_matplotlib_there_are_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    page = Page(two_parts())
    assert len(page.tables) == 4 and not any(tag == "svg" for tag, _ in page.tags)
