"""Memory of the process: allocator and peak."""

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
    """Ask glibc to keep large freed blocks instead of returning them to the system.

    A training step on the CPU frees and allocates the same hundreds of megabytes of activations, and the system would
    zero every page each time (measured in docs/benchmarks.md). Without glibc nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def forget_peak() -> None:
    """Reset the peak that `peak_mb` reports, on Linux and on GPUs.

    Memory that an earlier job of a sweep has freed is returned to the system first.
    """
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):  # another system, or a container that forbids it
        Path("/proc/self/clear_refs").write_text("5")
    if gpu := _gpu():
        gpu.reset_peak_memory_stats()


def peak_mb() -> float:
    """Peak memory in MB: of the GPU if there is one, else of this process."""
    if gpu := _gpu():
        return gpu.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _gpu() -> Any:
    """`torch.cuda` if it is loaded: a process that runs an exported file must not load torch."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None
