"""The most memory that using a model takes, of a process that does nothing else.

    python -P inference.py RUN_DIR|FILE.onnx HEIGHT WIDTH CHANNELS THREADS

A file runs without torch, as it would where it is deployed.
"""

import subprocess
import sys
from pathlib import Path

from visiontune.training.memory import forget_peak, peak_mb

CALLS = 3


def fresh_peak_mb(model: Path, size: tuple[int, int], channels: int, threads: int) -> float:
    """MB (1e6 bytes) of a new process that shows one image at a time to a run's checkpoint, or to a file.

    What loading takes for a moment does not count where the system can tell (Linux).
    """
    arguments = [str(model), *map(str, (*size, channels, threads))]
    made = subprocess.run([sys.executable, "-P", __file__, *arguments], capture_output=True, text=True)
    if made.returncode:
        said = made.stderr.strip().splitlines() or [f"exit code {made.returncode}"]
        raise RuntimeError(f"{model} does not run in a process of its own: {said[-1]}")
    return float(made.stdout.splitlines()[-1])


def _file(path: Path, shape: tuple[int, ...], threads: int) -> None:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    forget_peak()
    for _ in range(CALLS):
        session.run(None, {"picture": np.zeros(shape, np.uint8)})


def _run(path: Path, shape: tuple[int, ...], threads: int) -> None:
    import torch

    from visiontune.deployment.graph import build_graph
    from visiontune.training.load import open_run

    torch.set_num_threads(threads)
    graph, _ = build_graph(*open_run(str(path), trust=True))  # the process that starts this one has asked
    forget_peak()
    with torch.inference_mode():
        for _ in range(CALLS):
            graph(torch.zeros(shape, dtype=torch.uint8))


if __name__ == "__main__":
    given, height, width, channels, threads = sys.argv[1:]
    work = _file if given.endswith(".onnx") else _run
    work(Path(given), (1, int(channels), int(height), int(width)), int(threads))
    print(peak_mb())
