"""The places in a run's config where an object is built, and what may be built there without `trust=true`.

A name is judged before anything is imported, since an import may run code. Only modules of the slot's packages are
imported; then the class or function must be defined there and be of the slot's kind.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import Precision
from lightning.pytorch.profilers import Profiler
from torch import nn
from torch.nn.modules.loss import _Loss
from torch.optim import Optimizer
from torchmetrics import Metric

import visiontune
from visiontune.data import Source
from visiontune.models.heads import Head
from visiontune.strategies import Strategy

PACKAGE = visiontune.__name__


class UnknownName(Exception):
    """A slot's package has no such class or function; it may belong to another version."""


@dataclass(frozen=True)
class Slot:
    """A place where an object is built.

    Attributes:
        keys: dotted key of its mapping; `*` is any one key, and `**` at the end one or more keys or list indices.
        packages: what stands in the slot is named in one of them, or in one of their modules.
        fits: whether a class or function of these packages may stand there.
        expected: the same in words.
        modules: what stands in the slot may also be a direct member of one of these.
        reads: its arguments may be paths outside the run, since they are only read.
    """

    keys: str
    packages: tuple[str, ...]
    fits: Callable[[Any], bool]
    expected: str
    modules: tuple[str, ...] = ()
    reads: bool = False

    def matches(self, path: tuple[str, ...]) -> bool:
        """Whether the mapping at `path`, its keys from the top, is in this slot."""
        keys = self.keys.split(".")
        if keys[-1] == "**":
            keys.pop()
            if len(path) <= len(keys):
                return False
            path = path[: len(keys)]
        return len(path) == len(keys) and all(key in ("*", part) for key, part in zip(keys, path, strict=True))

    def allows(self, target: str) -> bool:
        """Whether `target` may stand in this slot.

        Raises:
            UnknownName: its package has no such name.
        """
        if not all(part.isidentifier() and not part.startswith("_") for part in target.split(".")):
            return False
        module = target.rpartition(".")[0]
        package = next((name for name in self.packages if target.startswith(f"{name}.")), module)
        if package not in (*self.packages, *self.modules):
            return False
        value = _find(package, target.removeprefix(f"{package}.").split("."))
        defined = str(getattr(value, "__module__", ""))  # a module may hold names that it imports from elsewhere
        return defined.split(".")[0] == target.split(".")[0] and self.fits(value)


def _find(package: str, names: list[str]) -> Any:
    """A name in a package or in its modules; None if the way leads through a class or another package."""
    value: Any = _import(package)
    for name in names:
        if not (isinstance(value, ModuleType) and f"{value.__name__}.".startswith(f"{package}.")):
            return None
        value = getattr(value, name) if hasattr(value, name) else _import(f"{value.__name__}.{name}")
    return value


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise UnknownName(name) from error


def is_in_package(target: str) -> bool:
    """Whether this version of the package has a module or name for `target`; nothing is imported."""
    folder = Path(str(visiontune.__file__)).parent
    for name in target.split(".")[1:]:
        if (folder / name).is_dir():
            folder /= name
        else:
            return (folder / f"{name}.py").is_file() or name in (folder / "__init__.py").read_text()
    return True


def find_slot(path: tuple[str, ...]) -> Slot | None:
    """The slot of the mapping at `path`; None where no object is built."""
    return next((slot for slot in SLOTS if slot.matches(path)), None)


def _class(*bases: type, without: tuple[type, ...] = ()) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        return isinstance(value, type) and issubclass(value, bases) and not issubclass(value, without or ())

    return fits


def _is_loss(value: Any) -> bool:
    kind = _Loss if str(getattr(value, "__module__", "")).startswith("torch.") else nn.Module
    return isinstance(value, type) and issubclass(value, kind)


def _is_metric(value: Any) -> bool:
    """Metrics with a network download its weights when they are built."""
    module = str(getattr(value, "__module__", ""))
    has_network = hasattr(value, "feature_network") or module.endswith(".dists")
    return isinstance(value, type) and issubclass(value, Metric) and module.startswith(_METRICS) and not has_network


def _is_reader(value: Any) -> bool:
    return inspect.isfunction(value) and inspect.signature(value).return_annotation in (Source, "Source")


def _is_scheduler(value: Any) -> bool:
    return inspect.isfunction(value) and list(inspect.signature(value).parameters)[:1] == ["optimizer"]


def _is_dataset(value: Any) -> bool:
    return isinstance(value, type) and hasattr(value, "__getitem__") and hasattr(value, "__len__")


_KINDS = ("aggregation", "classification", "clustering", "detection", "image", "nominal", "regression", "segmentation")
_METRICS = (
    *(f"torchmetrics.{kind}" for kind in (*_KINDS, "wrappers")),
    "visiontune.models.metrics",
    "visiontune.models.heads",
)
_METRIC_TEXT = "a metric of torchmetrics without a network, or of visiontune.models.metrics"
_LOSSES = ("torch.nn", "timm.loss", "visiontune.models.losses", "visiontune.models.heads")
_CALLBACKS = ("visiontune.callbacks", "lightning.pytorch.callbacks")
_CALLBACK = _class(L.Callback, without=(Checkpoint,))  # a Checkpoint deletes the files that its state names
_TRAINER = ("lightning", "lightning.pytorch")

SLOTS = (
    Slot("heads.*.metrics.*.metric", _METRICS, _is_metric, _METRIC_TEXT, modules=("torchmetrics",)),
    Slot("heads.*.metrics.*.metric.**", _METRICS, _is_metric, _METRIC_TEXT, modules=("torchmetrics",)),
    Slot("heads.*", ("visiontune.models.heads",), _class(Head), "a head of visiontune.models.heads"),
    Slot("heads.*.**", _LOSSES, _is_loss, "a loss of torch.nn, timm.loss or visiontune.models.losses"),
    Slot("strategy", ("visiontune.strategies",), _class(Strategy), "a strategy of visiontune.strategies"),
    Slot("optimizer", ("torch.optim", "timm.optim", "visiontune.optim"), _class(Optimizer), "a torch.optim.Optimizer"),
    Slot("scheduler", ("visiontune.optim",), _is_scheduler, "a function of visiontune.optim.schedulers"),
    Slot("technique.*", ("visiontune.callbacks",), _CALLBACK, "a callback of visiontune.callbacks"),
    Slot("callbacks.*", _CALLBACKS, _CALLBACK, "a callback of visiontune.callbacks or Lightning, not a Checkpoint"),
    Slot("logger.*", ("visiontune.loggers",), _class(Logger), "a logger of visiontune.loggers"),
    Slot("trainer", (), lambda value: value is L.Trainer, "lightning.Trainer", modules=_TRAINER),
    Slot("trainer.profiler", ("lightning.pytorch.profilers",), _class(Profiler), "a profiler of Lightning"),
    Slot("trainer.plugins.**", ("lightning.pytorch.plugins",), _class(Precision), "a precision plugin of Lightning"),
    Slot("data.reader", ("visiontune.data.readers",), _is_reader, "a reader of visiontune.data.readers", reads=True),
    Slot("data.dataset", ("visiontune.data",), _is_dataset, "a Dataset of visiontune.data", reads=True),
    Slot("data.dataset.*", ("visiontune.data",), _is_dataset, "a Dataset of visiontune.data", reads=True),
    Slot(
        "data.datamodule",
        ("visiontune.data",),
        _class(L.LightningDataModule),
        "a LightningDataModule of visiontune.data",
        reads=True,
    ),
)
