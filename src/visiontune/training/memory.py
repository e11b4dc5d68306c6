"""The memory of the process: what it keeps, and what it took at most."""

import ctypes
import gc
import platform
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_allocated() -> None:
    """Ask glibc not to hand large freed blocks back to the system.

    A training step on the CPU frees and takes the same hundreds of megabytes of activations again, and the system
    would zero every page of them each time (measured in docs/benchmarks.md). Elsewhere than on glibc nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def forget_peak() -> None:
    """Let `peak_mb` count from here on, as far as the system can: Linux, and GPUs.

    What an earlier job of a sweep left to be used again goes back to the system.
    """
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):  # another system, or a container that forbids it
        Path("/proc/self/clear_refs").write_text("5")
    if gpu := _gpu():
        gpu.reset_peak_memory_stats()


def peak_mb() -> float:
    """The most memory in use at once in MB: of the GPU where there is one, else of this process."""
    if gpu := _gpu():
        return gpu.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.is_file():
        found = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(found.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _gpu() -> Any:
    """`torch.cuda` where it is in use: a process that runs an exported file has no torch, and is not to load it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None
