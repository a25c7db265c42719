"""A run killed at any moment resumes to the same bits; a save that fails at any call leaves the old or the new.

The work is done by two commands in processes of their own, which may fork because nothing has run in parallel there:
`kill_sweep.py --kills 200` and `save_faults.py [--strace]` do more of the same.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dither

HERE = Path(__file__).parent
SOURCE = Path(dither.__file__).parent.parent

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def run(script, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert not result.get("problems"), json.dumps(result, indent=1)
    return result


def test_killed_at_40_random_moments_and_resumed_it_is_bit_identical():
    result = run("kill_sweep.py", "--kills", "40", "--seed", "1")
    assert result["kills"] >= 40
    assert result["identical"] == result["trials"] > 0


def test_stopped_by_signals_and_resumed_it_is_bit_identical():
    result = run("kill_sweep.py", "--kills", "10", "--seed", "2", "--signals", "TERM,INT")
    assert result["kills"] >= 10


def test_a_save_that_fails_or_dies_at_any_call_leaves_the_old_or_the_new():
    result = run("save_faults.py")
    assert min(result["killed"], result["raised"], result["returned"]) >= 40


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_the_same_with_faults_injected_into_the_system_calls():
    result = run("save_faults.py", "--strace")
    if "skipped" in result:
        pytest.skip(result["skipped"])
    assert min(result["killed"], result["raised"], result["returned"]) >= 20
