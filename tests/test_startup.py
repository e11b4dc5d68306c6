"""What each command imports, in a new process."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
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
    """The imported modules when `visiontune ARGUMENTS` ends; also checks that scipy.signal works afterwards."""
    process = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True)
    return set(process.stdout.splitlines())


def test_help_imports_neither_hydra_nor_torch() -> None:
    assert {"hydra", "omegaconf", "numpy", "torch"}.isdisjoint(imported_by("--help"))


@pytest.mark.slow
def test_plan_imports_no_library_that_it_does_not_use(tiny: list[str]) -> None:
    """Their imports together take as long as that of torch."""
    modules = imported_by("plan", *tiny)
    assert {"torch", "timm", "torchmetrics"} <= modules
    assert {"sklearn", "scipy.signal", "scipy.stats", "pandas", "wandb", "mlflow", "onnx", "torch_pruning"}.isdisjoint(
        modules
    )


def test_the_process_ends_with_its_exit_code_after_the_exit_functions_of_others(tmp_path: Path) -> None:
    """`mine` is imported by the command, as a library would be."""
    (tmp_path / "mine.py").write_text("import atexit\natexit.register(print, 'bye')\n")
    for code, expected in (("None", 0), ("'text'", 1), ("2", 2), ("0", 0)):
        script = (
            "import sys, visiontune.cli, visiontune.__main__ as entry\n"
            "def main():\n    import mine\n    print('hello')\n"
            f"    sys.exit({code})\n"
            "visiontune.cli.main = main\nentry.run()\n"
        )
        process = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
        assert (process.returncode, process.stdout) == (expected, "hello\nbye\n"), process.stderr
    assert subprocess.run([sys.executable, "-m", "visiontune", "nothing"], capture_output=True).returncode == 2
    assert subprocess.run([sys.executable, "-m", "visiontune", "--help"], capture_output=True).returncode == 0


def test_digits_are_those_of_scikit_learn() -> None:
    images, labels = load_digits()
    bunch = sklearn.datasets.load_digits()
    assert np.array_equal(images, bunch.images) and np.array_equal(labels, bunch.target)
    assert images.dtype == bunch.images.dtype and labels.dtype == bunch.target.dtype
