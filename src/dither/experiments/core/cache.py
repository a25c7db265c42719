"""Results of the parts of an experiment, each in a JSON file with the settings that made it: no part is done twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dither import files
from dither.tables import Row


def read(path: Path, settings: Mapping[str, Any]) -> Row | None:
    """What `write` wrote for these settings; None if it is not there, or of others."""
    if not path.is_file():
        return None
    stored = files.read_json(path)
    return stored["result"] if stored.get("settings") == _as_json(settings) else None


def write(path: Path, settings: Mapping[str, Any], result: Row) -> Row:
    """The result, which `read` returns from now on."""
    files.make_dir(path.parent)
    files.write_json(path, {"settings": settings, "result": result})
    return result


def _as_json(settings: Mapping[str, Any]) -> Any:
    """As a file has them: tuples are lists."""
    return files.parse_json(files.dump_json(dict(settings)), "the settings")
