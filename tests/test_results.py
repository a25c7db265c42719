"""Published results are validated, and the tables in README and docs are made from them."""

from pathlib import Path

import pytest

from dither import results

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


def test_the_file_says_one_row_a_line_and_perhaps_what_made_it(tmp_path):
    path = results.save("tiny", PAYLOAD | {"made_by": "hand"}, tmp_path)
    assert results.load("tiny", tmp_path)["made_by"] == "hand"
    assert '\n  {"method": "a|b", "score": 0.98765, "ok": true},\n' in path.read_text()
    with pytest.raises(ValueError, match="made_by is int"):
        results.save("tiny", PAYLOAD | {"made_by": 3}, tmp_path)


def test_markdown():
    assert results.to_markdown(PAYLOAD["rows"], ["method", "score"]) == TABLE
    assert "| yes |" in results.to_markdown(PAYLOAD["rows"])
    with pytest.raises(ValueError, match="'speed' is in no row; write one of method, ok, score"):
        results.to_markdown(PAYLOAD["rows"], ["speed"])


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"x": 0.94231, "x_sd": 0.00298, "seeds": 3}, "0.9423 ± 0.0030 (3)"),
        ({"x": 0.5, "x_sd": 0.0996, "n": 10}, "0.50 ± 0.10 (10)"),  # the digits are those of the rounded one
        ({"x": 393.04, "x_sd": 33.6, "n": 100, "seeds": 3}, "393 ± 34 (3)"),  # n may be a number of examples
        ({"x": -116.5, "x_sd": 0.44, "x_n": 12, "seeds": 3}, "-116.50 ± 0.44 (12)"),
        ({"x": 12345.6, "x_sd": 250.0, "seeds": 2}, "12346 ± 250 (2)"),
        ({"x": 500, "x_sd": 0.0, "seeds": 3}, "500 ± 0 (3)"),
        ({"x": 0.5, "x_sd": 0.25}, "0.50 ± 0.25"),
        ({"x": 0.94231, "x_sd": None, "seeds": 1}, "0.9423"),  # one seed has no spread
        ({"x": None, "x_sd": None, "seeds": 3}, ""),
    ],
)
def test_a_mean_is_shown_with_its_standard_deviation(row, shown):
    assert results.cell(row, "x") == shown
    table = results.to_markdown([{"method": "a"} | row])
    assert f"| {shown} |" in table and " sd |" not in table and "x n |" not in table
    assert "---:" in table.splitlines()[1].split("|")[2], "it is a number"


def test_a_standard_deviation_may_be_a_column_of_its_own():
    assert results.to_markdown([{"x": 1.0, "x_sd": 0.5}], ["x_sd"]).endswith("| 0.5 |\n")


# --- curves -----------------------------------------------------------------------------------------------------------
def curve(method: str, seed: int, count: int, **more) -> list[dict]:
    return [{"method": method, "seed": seed, "epoch": e, "y": 1 / (e + seed + 2)} | more for e in range(count)]


def test_curves_are_thinned_evenly_with_both_ends_and_the_same_places_for_all_seeds():
    rows = curve("a", 0, 101) + curve("a", 1, 101) + curve("b", 0, 4)
    thinned = results.thin(rows, points=11)
    assert [row["epoch"] for row in thinned] == [*range(0, 101, 10)] * 2 + [0, 1, 2, 3]
    assert results.thin(thinned, points=11) == thinned, "once is enough"
    assert len(results.thin(rows, points=1)) == 3


def test_a_curve_is_what_has_the_same_columns_and_words():
    rows = curve("a", 0, 100) + curve("a", 0, 100, part="x") + [{"method": "a", "epoch": e, "z": 1.0} for e in range(10)]
    assert len(results.thin(rows, points=10)) == 30


def test_numbers_get_four_digits_and_points_without_a_place_all_stay():
    points = [{"figure": "f", "x": 1 / (i + 3), "seed": 123456, "epoch": None} for i in range(100)]
    thinned = results.thin(points)
    assert len(thinned) == 100 and thinned[0] == {"figure": "f", "x": 0.3333, "seed": 123456, "epoch": None}


# --- pages ------------------------------------------------------------------------------------------------------------
def test_blocks_are_filled_checked_and_stay(tmp_path, capsys):
    results.save("tiny", PAYLOAD, tmp_path)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results:tiny method score -->\nold\n<!-- end -->\nafter\n")
    assert results.main(["--check", str(page)], tmp_path) == 1
    assert results.main([str(page)], tmp_path) == 0
    assert page.read_text() == f"before\n<!-- results:tiny method score -->\n{TABLE}<!-- end -->\nafter\n"
    assert results.main(["--check", str(page)], tmp_path) == 0
    assert "out of date" in capsys.readouterr().err


def filled(words: str, folder: Path) -> str:
    return results.fill(f"<!-- results:tiny{words} -->\n<!-- end -->", folder)


def test_a_block_may_keep_some_rows(tmp_path):
    rows = [{"part": p, "units": n, "how": "by hand, fast", "ms": 0.5 * n} for p in ("step", "sum") for n in (1, 8, 64)]
    results.save("tiny", PAYLOAD | {"rows": rows}, tmp_path)
    assert "| 8 | 4 |\n<!-- end" in filled(" units ms where part=step units=8", tmp_path)
    assert filled(" units ms where part=step units=8|64", tmp_path).count("\n") == 5
    assert filled(' ms where "how=by hand, fast"', tmp_path).count("\n") == 9
    with pytest.raises(ValueError, match="block results:tiny: no row has part=step and units=2"):
        filled(" ms where part=step units=2", tmp_path)
    with pytest.raises(ValueError, match="column 'unit' is in no row"):
        filled(" ms where unit=2", tmp_path)
    with pytest.raises(ValueError, match="'units' is no condition; write where column=value"):
        filled(" ms where units", tmp_path)


@pytest.mark.parametrize(
    ("block", "line", "rule", "remedy"),
    [
        ("<!-- results:none x -->\n<!-- end -->\n", 3, "results:none: no result", "run the experiment that writes it"),
        ("<!-- results:broken x -->\n<!-- end -->\n", 3, "results:broken: ", "is no JSON file"),
        ("<!-- results:tiny speed -->\n<!-- end -->\n", 3, "'speed' is in no row", "write one of method, ok, score"),
        ("<!-- results:tiny where ok -->\n<!-- end -->\n", 3, "'ok' is no condition", "write where column=value"),
        ("<!-- results:tiny where ok=no method=b -->\n<!-- end -->\n", 3, "no row has ok=no and method=b", "method may be c"),
        ('<!-- results:tiny where "ok=no -->\n<!-- end -->\n', 3, "No closing quotation", "close the quote"),
        ("<!-- results:tiny -->\nold\n", 3, "is no block", "<!-- end --> below its table"),
        ("<!-- results:tiny -->\nold\n<!-- results:tiny -->\n<!-- end -->\n", 3, "'results:tiny' is no block", "<!-- end -->"),
        ("<!-- results:tiny --><!-- end -->\n", 3, "is no block", "on a line of its own"),
        ("<!-- results: tiny -->\n<!-- end -->\n", 3, "is no block", "<!-- results:NAME columns -->"),
        ("\xff", 3, "is no UTF-8 text", "save it as UTF-8"),
    ],
)
def test_a_bad_page_is_one_line_and_stays(tmp_path, capsys, block, line, rule, remedy):
    results.save("tiny", PAYLOAD, tmp_path)
    (tmp_path / "broken.json").write_text("{")
    bad, good = tmp_path / "bad.md", tmp_path / "good.md"
    bad.write_bytes(b"first\n\n" + block.encode("latin-1"))
    good.write_text("<!-- results:tiny method score -->\n<!-- end -->\n")
    before = bad.read_bytes()
    assert results.main([str(bad), str(good)], tmp_path) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"{bad}: line {line}: ") and rule in said[0] and remedy in said[0]
    assert said[1:] == [f"{good}: updated"], "the other page is filled"
    assert bad.read_bytes() == before


def test_pages_and_command_lines_that_are_not_there(tmp_path, capsys):
    assert results.main([str(tmp_path / "none.md")], tmp_path) == 1
    assert capsys.readouterr().err == f"{tmp_path / 'none.md'}: No such file or directory; check the path\n"
    for arguments, words in (([], "name the pages"), (["--check"], "name the pages"), (["--chekc", "a.md"], "option --chekc")):
        assert results.main(arguments, tmp_path) == 2
        said = capsys.readouterr().err
        assert said.startswith("usage: ") and words in said and said.count("\n") == 1
    assert results.main(["--help"], tmp_path) == 0


def test_columns_of_many_rows_are_named_once(tmp_path):
    rows = [{"x": i, "y": i / 2} if i % 50 else {"y": None, "word": "a"} for i in range(120)]
    path = results.save("many", PAYLOAD | {"rows": rows}, tmp_path)
    assert results.load("many", tmp_path)["rows"] == rows
    assert path.read_text().count('"x"') == path.read_text().count('"word"') == 3
    assert path.read_text() == results.dumps(results.load("many", tmp_path))
