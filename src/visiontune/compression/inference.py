"""Measure the peak memory of inference in a new process.

    python -P inference.py RUN_DIR|FILE.onnx HEIGHT WIDTH CHANNELS THREADS

An exported file runs without torch, as it does when it is deployed.
"""

import os
import subprocess
import sys
from pathlib import Path

from visiontune.training.memory import forget_peak, peak_mb

CALLS = 3


def measure_peak_mb(model: Path, size: tuple[int, int], channels: int, threads: int) -> float:
    """Peak memory in MB (1e6 bytes) of a new process that runs a checkpoint or an exported file, one image at a time.

    On Linux the peak while loading does not count.

    Raises:
        RuntimeError: the process failed.
    """
    arguments = [str(model), *map(str, (*size, channels, threads))]
    process = subprocess.run([sys.executable, "-P", __file__, *arguments], capture_output=True, text=True)
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise RuntimeError(f"{model} fails in a new process: {lines[-1]}")
    return float(process.stdout.splitlines()[-1])


def _run_file(path: Path, shape: tuple[int, ...], threads: int) -> None:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    forget_peak()
    for _ in range(CALLS):
        session.run(None, {session.get_inputs()[0].name: np.zeros(shape, np.uint8)})


def _run_checkpoint(path: Path, shape: tuple[int, ...], threads: int) -> None:
    import torch

    from visiontune.deployment.graph import build_graph
    from visiontune.training.load import open_run

    torch.set_num_threads(threads)
    graph, _ = build_graph(*open_run(str(path), trust=True))  # `compress` has checked it
    forget_peak()
    with torch.inference_mode():
        for _ in range(CALLS):
            graph(torch.zeros(shape, dtype=torch.uint8))


if __name__ == "__main__":
    path, height, width, channels, threads = sys.argv[1:]
    run = _run_file if path.endswith(".onnx") else _run_checkpoint
    run(Path(path), (1, int(channels), int(height), int(width)), int(threads))
    print(peak_mb(), flush=True)
    os._exit(0)  # Python would free the objects of torch one by one, which takes seconds
