"""A result is read again for the settings that made it, and for no others."""

from dither import files
from dither.experiments.core import cache


def test_a_result_belongs_to_its_settings(tmp_path):
    path, settings = tmp_path / "parts" / "a.json", {"hidden": (200, 200), "lr": 0.1}
    assert cache.read(path, settings) is None
    assert cache.write(path, settings, {"loss": 0.5}) == {"loss": 0.5}
    assert cache.read(path, settings) == cache.read(path, {"lr": 0.1, "hidden": [200, 200]}) == {"loss": 0.5}
    for others in ({"hidden": (200,), "lr": 0.1}, {"lr": 0.1}, {**settings, "seed": 0}):
        assert cache.read(path, others) is None
    files.write_json(path, {"loss": 0.5})  # of another program
    assert cache.read(path, settings) is None
