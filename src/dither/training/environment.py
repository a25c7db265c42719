"""What a result may depend on besides its configuration: versions, processor, threads, commit.

No host name, no user name, no path: the record is made to be published with the results.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from dither import kernels

PACKAGE = Path(__file__).resolve().parent.parent
_FLAGS = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
_PACKAGES = ("dither", "dither-kernels", "torch", "numpy", "safetensors")


def environment() -> dict[str, Any]:
    """A flat-as-possible JSON object; unknown entries are None."""
    processor = _processor()
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": {
            "name": processor.get("model name") or platform.processor() or None,
            "flags": _flags(processor),
            "torch_capability": torch.backends.cpu.get_cpu_capability(),
            "count": os.cpu_count(),
        },
        "kernels": kernels.path() if kernels.path() != "torch" else f"torch ({kernels.REASON})",
        "threads": torch.get_num_threads(),
        "gpu": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "git": git_state(PACKAGE),
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """{"commit", "dirty"} of the checkout that tracks `folder`, None when there is none (or no git).

    Dirty is a tracked file with a change, or a file in `folder` that git does not know: it may be imported. The top folder
    results/ does not count. No run reads it, and publishing one result must not make the tree dirty for the next.
    """

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(folder), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # Installed inside somebody else's checkout, the code is not tracked there: that commit would mislead.
    if not git("ls-files", "--", "."):
        return None

    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top)results")
    unknown = git("ls-files", "--others", "--exclude-standard", "--", ".")
    return {"commit": commit, "dirty": (changed, unknown) != ("", "")} if commit else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> dict[str, str]:
    """The entries of the first processor in Linux's /proc/cpuinfo; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.partition("\n\n")[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _flags(processor: dict[str, str]) -> list[str]:
    listed = set((processor.get("flags") or processor.get("Features") or "").split())
    if "asimd" in listed or platform.machine() == "arm64":
        listed.add("neon")
    return [flag for flag in (*_FLAGS, "neon") if flag in listed]
