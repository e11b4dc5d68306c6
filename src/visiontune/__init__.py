"""visiontune: fine-tune vision models with PyTorch Lightning and Hydra."""

from pathlib import Path
from typing import Any

__version__ = "0.2.0"


def load_sweep(directory: str | Path) -> Any:
    """Load the runs of a sweep as a tidy `pandas.DataFrame` with one row for each run, the best first.

    The columns are `run` and `path`; a column for each overridden key, such as `optimizer.lr`, with numbers where all
    its values are numbers; `objective` (the name of the metric), `mode` (max or min), `value` and `best_epoch` of it;
    `trained_epochs`, `seconds`, `status` and `error`; and a column for each metric, such as `val/classification/f1`.
    What a run does not have is missing (NaN or None).

    Args:
        directory: of a sweep, a run, or a folder with runs.

    Raises:
        UserError: there are no runs, or a file cannot be read.
    """
    from visiontune.sweeps.comparison.frame import load_sweep  # pandas takes time to import

    return load_sweep(directory)
