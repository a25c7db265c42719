"""Published results are validated, and the tables in README and docs are made from them."""

import json
from pathlib import Path

import pytest

from dither import results

ROOT = Path(__file__).resolve().parent.parent
PAYLOAD = {
    "command": "dither experiment tiny",
    "seconds": 1.5,
    "environment": {"versions": {}},
    "config": {"seed": 0},
    "rows": [{"method": "a|b", "score": 0.98765, "ok": True}, {"method": "c", "score": None, "ok": False}],
}
TABLE = "| method | score |\n| --- | ---: |\n| a\\|b | 0.9877 |\n| c |  |\n"


def test_save_and_load(tmp_path):
    path = results.save("tiny", PAYLOAD, tmp_path / "new")
    assert path.name == "tiny.json" and results.load("tiny", tmp_path / "new") == PAYLOAD


@pytest.mark.parametrize(
    ("change", "words"),
    [({"rows": None}, "rows is NoneType"), ({"extra": 1}, "unknown key 'extra'"), ({"seconds": True}, "seconds"),
     ({"rows": [{"x": float("nan")}]}, "finite"), ({"rows": [{"x": [1]}]}, "rows\\[0\\]"), ({"rows": [3]}, "flat object")],
)  # fmt: skip
def test_what_is_no_result_is_refused(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        results.save("tiny", PAYLOAD | change, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_missing_keys_names_and_files(tmp_path):
    with pytest.raises(ValueError, match="lacks 'rows'"):
        results.save("tiny", {k: v for k, v in PAYLOAD.items() if k != "rows"}, tmp_path)
    for name in ("../tiny", "Tiny", ""):
        with pytest.raises(ValueError, match="name is"):
            results.save(name, PAYLOAD, tmp_path)
    with pytest.raises(FileNotFoundError, match="run the experiment"):
        results.load("tiny", tmp_path)
    (tmp_path / "tiny.json").write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        results.load("tiny", tmp_path)


def test_markdown():
    assert results.to_markdown(PAYLOAD["rows"], ["method", "score"]) == TABLE
    assert "| yes |" in results.to_markdown(PAYLOAD["rows"])
    with pytest.raises(ValueError, match="'speed' is in no row; the rows have method, ok, score"):
        results.to_markdown(PAYLOAD["rows"], ["speed"])


def test_blocks_are_filled_checked_and_stay(tmp_path, capsys):
    results.save("tiny", PAYLOAD, tmp_path)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results:tiny method score -->\nold\n<!-- end -->\nafter\n")
    assert results.main(["--check", str(page)], tmp_path) == 1
    assert results.main([str(page)], tmp_path) == 0
    assert page.read_text() == f"before\n<!-- results:tiny method score -->\n{TABLE}<!-- end -->\nafter\n"
    assert results.main(["--check", str(page)], tmp_path) == 0
    assert "out of date" in capsys.readouterr().err


def pages():
    return [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if path.exists()]


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_the_tables_in_the_text_are_those_of_the_results(path):
    text = path.read_text("utf-8")
    if not results.BLOCK.search(text):
        pytest.skip("no table of results in it")
    assert results.fill(text, ROOT / "results") == text, f"run python -m dither.results {path.relative_to(ROOT)}"


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.json")), ids=lambda path: path.stem)
def test_every_published_result_is_valid(path):
    assert results.load(path.stem, path.parent) == json.loads(path.read_text("utf-8"))
