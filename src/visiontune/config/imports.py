"""Import a verb in two thirds of the usual time, since imports dominate the start of a command.

Python code that imports visiontune itself is not affected.
"""

import atexit
import gc
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType


def import_verb(verb: str) -> ModuleType:
    """Import `visiontune.VERB`."""
    name = f"visiontune.{verb}"
    if name in sys.modules:  # a later job of a sweep
        return sys.modules[name]
    # Imports create a million objects that all stay. Collecting garbage meanwhile takes a sixth of the time.
    gc.disable()
    try:
        with _stand_ins({"wandb": None, "scipy.signal": _scipy_signal()}):
            import_module("timm")  # imports wandb if it is installed, which only its training script needs
            import_module("torchmetrics")  # imports scipy.signal (0.8 s) only to add `hamming` to it
        return import_module(name)
    finally:
        gc.freeze()  # later collections skip what was imported
        atexit.register(gc.unfreeze)  # otherwise triton reports its types as leaks
        gc.enable()


def _scipy_signal() -> ModuleType:
    """A stand-in for scipy.signal that has the one name which torchmetrics sets."""
    module = ModuleType("scipy.signal")
    module.__dict__["hamming"] = None
    return module


@contextmanager
def _stand_ins(modules: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Replace modules that are not imported yet by stand-ins (None: as if not installed) inside the context.

    A later import of such a module loads the real one.
    """
    missing = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(missing)  # type: ignore[arg-type]  # the import system reads None as "not installed"
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]
