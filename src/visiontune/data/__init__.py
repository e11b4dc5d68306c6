"""Data: readers, splits, augmentation and loaders."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

from omegaconf import DictConfig, OmegaConf

from visiontune.data.augmentation import Augment
from visiontune.data.batch import Batch
from visiontune.data.datamodule import VisionData
from visiontune.data.images import ImageDecoder
from visiontune.data.loaders import image_loader, to_network
from visiontune.data.matching import match_classes, one_split
from visiontune.data.own_module import build_own_module
from visiontune.data.schema import Sample, Source, TaskInfo, select_tasks
from visiontune.data.split_checks import check_val
from visiontune.errors import UserError, add_notes
from visiontune.nodes import check_arguments, find

__all__ = [
    "Augment",
    "Batch",
    "Sample",
    "Source",
    "TaskInfo",
    "VisionData",
    "build_data",
    "build_evaluation_data",
    "image_loader",
    "to_network",
]


READER = "a function, such as visiontune.data.readers.image_folder.read"


def build_data(
    data: Mapping[str, Any],
    augment: Mapping[str, Any] | None = None,
    seed: int = 0,
    tasks: Sequence[str] | None = None,
    allow_download: bool = True,
) -> VisionData:
    """Build the data of a config: call `data.reader`, and pass the keys that VisionData knows by name.

    Args:
        data: the group `data`; interpolations in it are resolved.
        augment: the group `augment`; None means no augmentation.
        tasks: names of the tasks to use; None means all.
        allow_download: if False, readers download nothing, whatever the config says.

    Raises:
        UserError: the config or the data is wrong.
    """
    settings = _to_dict(data)
    module = settings.pop("datamodule", None)
    if module is not None and not isinstance(module, Mapping):
        raise UserError(f"data.datamodule={module}: write the path of a class, data.datamodule._target_={module}")
    if module and module.get("_target_"):
        shape = {key: settings[key] for key in ("image_size", "channels")}
        return build_own_module({k: v for k, v in module.items() if v is not None}, **shape, seed=seed, tasks=tasks)
    source, options = _read(settings, tasks, allow_download)
    if tasks is not None:
        source = _select_tasks(source, tasks, has_folds=options.get("folds") is not None)
    return VisionData(source, augment=Augment.from_config(_to_dict(augment or {})), seed=seed, **options)


def build_evaluation_data(
    data: Mapping[str, Any],
    augment: Mapping[str, Any],
    schema: Mapping[str, TaskInfo],
    classes: Mapping[str, str | None],
    seed: int = 0,
    allow_download: bool = True,
) -> VisionData:
    """All samples of a labelled data set as one split, `all`, for a trained model; splits in the data are ignored.

    Args:
        data: the group `data` of the run, with the keys that are different.
        augment: the group `augment` of the run, whose `fill` pads images.
        schema: the model's tasks.
        classes: see `match_classes`.
        allow_download: as in `build_data`.

    Raises:
        UserError: the config or the data is wrong, or the model does not know a class.
    """
    settings = _to_dict(data)
    if (settings.pop("datamodule", None) or {}).get("_target_"):
        raise UserError("split=all: data.datamodule decides its splits; write split=train, split=val or split=test")
    source, options = _read(settings, list(schema), allow_download, evaluation=True)
    source = match_classes(source, schema, classes)
    options |= {"labelled": 1.0}
    augmentation = Augment.from_config(_to_dict(augment))
    return VisionData(source, augment=augmentation, seed=seed, assign_splits=one_split, **options)


def _read(
    settings: dict[str, Any], tasks: Sequence[str] | None, allow_download: bool, evaluation: bool = False
) -> tuple[Source, dict[str, Any]]:
    """Call the reader of the group `data`; return its result, and the keys for VisionData.

    Args:
        tasks: names of the tasks that are used; None means all.
        allow_download: as in `build_data`.
        evaluation: the data is evaluated by a trained model: a reader with this argument accepts a single class.
    """
    reader = dict(settings.pop("reader"))
    read = find(reader.get("_target_"), "data.reader", READER)
    check_arguments(read, reader, "data.reader")
    known = {*inspect.signature(VisionData).parameters} - {"source", "augment", "seed", "decoder", "assign_splits"}
    known |= {field.name for field in fields(ImageDecoder)}
    for key in settings:
        if key not in known and key not in reader:
            hint = get_close_matches(key, [*known, *reader], n=1)
            raise UserError(
                f"data.{key}: unknown key; "
                + (f"did you mean data.{hint[0]}?" if hint else f"known are {', '.join(sorted({*known, *reader}))}")
            )
    # A run's saved config is resolved: a key that was changed later, such as data.root, must reach the reader too.
    reader |= {key: value for key, value in settings.items() if key in reader}
    del reader["_target_"]
    parameters = inspect.signature(read).parameters
    if "tasks" in parameters:  # the reader reads only what these tasks need
        reader["tasks"] = tasks
    if evaluation and "evaluation" in parameters:
        reader["evaluation"] = True
    if not allow_download and "allow_download" in parameters:
        reader["allow_download"] = False
    decoder = ImageDecoder.from_config(settings)
    options = {key: value for key, value in settings.items() if key in known and not hasattr(decoder, key)}
    source = read(**reader)
    if not isinstance(source, Source):
        raise UserError(f"data.reader: expected {READER}, which returns a Source, got {type(source).__name__}")
    if not source.samples:
        raise UserError(add_notes("no sample of the data can be used", source.notes))
    return source, options | {"decoder": decoder}


def _select_tasks(source: Source, tasks: Sequence[str], has_folds: bool = False) -> Source:
    """Keep only these tasks, and only images with a label for at least one of them.

    Raises:
        UserError: a task is unknown, or no image of the val split has a label, unless `has_folds` replaces it.
    """
    schema = select_tasks(source.schema, tasks)
    val = [sample for sample in source.samples if sample.split == "val"]
    if val and not has_folds:  # otherwise they would be left out, and part of train would become val
        check_val(val, schema)
    samples = [
        replace(sample, targets={task: sample.targets[task] for task in tasks if task in sample.targets})
        for sample in source.samples
    ]
    labelled = [sample for sample in samples if any(target is not None for target in sample.targets.values())]
    notes = list(source.notes)
    if len(labelled) < len(samples):
        left_out = len(samples) - len(labelled)
        notes.append(f"{left_out} of {len(samples)} images have no label for {' or '.join(tasks)} and are left out")
    return replace(source, schema=schema, samples=labelled, notes=notes)


def _to_dict(config: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(config, DictConfig):
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    return dict(config)
