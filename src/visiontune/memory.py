"""Keep freed memory in the process."""

import ctypes
import platform

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
