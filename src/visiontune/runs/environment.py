"""The environment of a run, which explains its results later: command, code, versions and machine."""

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("visiontune", "torch", "torchvision", "lightning", "timm", "torchmetrics", "hydra-core", "numpy")


def environment(
    seed: int, overrides: list[str], tags: list[str] | None = None, note: str | None = None
) -> dict[str, Any]:
    """The content of environment.json; `git` is None outside a git checkout."""
    return {
        "argv": sys.argv,
        "overrides": overrides,
        "working_directory": str(Path.cwd()),
        "seed": seed,
        "tags": tags or [],
        "note": note,
        "git": _git(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": torch.get_num_threads(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": {name: _version(name) for name in PACKAGES},
    }


def changed_code(before: dict[str, Any]) -> str | None:
    """What differs between the code of now and that of an environment.json, in words; None if nothing does.

    Only this package counts: its commit and uncommitted changes in a checkout, else its version.
    """
    now, then = _git(), before.get("git")
    if now is None or not isinstance(then, dict):
        versions = [(before.get("packages") or {}).get("visiontune"), _version("visiontune")]
        return None if versions[0] == versions[1] else f"visiontune {versions[0]}, now {versions[1]}"
    if now["commit"] != then.get("commit"):
        return f"commit {str(then.get('commit'))[:9]}, now {now['commit'][:9]}"
    return None if now["diff"] == then.get("diff") else "uncommitted changes differ"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, str] | None:
    def ask(*arguments: str) -> str:
        package = Path(__file__).parent
        process = subprocess.run(["git", *arguments], cwd=package, capture_output=True, timeout=20, check=True)
        return process.stdout.decode(errors="replace")  # a changed file can have any encoding

    try:
        return {"commit": ask("rev-parse", "HEAD").strip(), "diff": ask("diff", "HEAD")}
    except (OSError, subprocess.SubprocessError):
        return None
