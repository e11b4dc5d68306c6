"""Import a verb in two thirds of the time, for the command line: what users wait for is mostly imports.

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
    # Garbage collections take a sixth of the time while a million objects are created that all stay.
    gc.disable()
    try:
        with _stand_ins({"wandb": None, "scipy.signal": _scipy_signal()}):
            import_module("timm")  # imports wandb, if it is installed, for the sake of its own training script
            import_module("torchmetrics")  # imports scipy.signal (0.8 s) to add `hamming`, if it lacks it
        return import_module(name)
    finally:
        gc.freeze()  # later collections do not search what was imported
        atexit.register(gc.unfreeze)  # or triton reports its types as leaks
        gc.enable()


def _scipy_signal() -> ModuleType:
    module = ModuleType("scipy.signal")
    module.__dict__["hamming"] = None
    return module


@contextmanager
def _stand_ins(modules: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Put stand-ins where modules are not imported yet (None: as if it were not installed), and remove them again.

    A later import of such a module loads the real one.
    """
    missing = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(missing)  # type: ignore[arg-type]  # None is what the import system takes for "not there"
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]
