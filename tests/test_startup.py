"""What a command imports before it does anything, each in a process of its own."""

import subprocess
import sys

import numpy as np
import sklearn.datasets

from visiontune.data.readers.digits import load_digits

SCRIPT = """
import gc, sys
from visiontune.cli import main
main()
assert gc.isenabled()
print("\\n".join(sys.modules))
if "torchmetrics" in sys.modules:
    from scipy.signal import convolve
    assert convolve([1, 2], [3]).tolist() == [3, 6]
"""


def imported_by(*arguments: str) -> set[str]:
    """The modules in memory when `visiontune ARGUMENTS` ends; the real scipy.signal is there for whoever asks."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines())


def test_help_imports_neither_hydra_nor_torch() -> None:
    assert {"hydra", "omegaconf", "numpy", "torch"}.isdisjoint(imported_by("--help"))


def test_plan_imports_no_library_that_it_does_not_use(tiny: list[str]) -> None:
    """Together they take as long as torch itself."""
    modules = imported_by("plan", *tiny)
    assert {"torch", "timm", "torchmetrics"} <= modules
    assert {"sklearn", "scipy.signal", "scipy.stats", "pandas", "wandb", "mlflow", "onnx", "torch_pruning"}.isdisjoint(
        modules
    )


def test_digits_are_those_of_scikit_learn() -> None:
    images, labels = load_digits()
    bunch = sklearn.datasets.load_digits()
    assert np.array_equal(images, bunch.images) and np.array_equal(labels, bunch.target)
    assert images.dtype == bunch.images.dtype and labels.dtype == bunch.target.dtype
