"""torchvision's classification data sets: read from the root, or downloaded to it.

OxfordIIITPet also has masks (its trimaps), which become a segmentation task.
"""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from visiontune.data.bad_files import BadFiles
from visiontune.data.image_files import MAX_PIXELS
from visiontune.data.images import ImageDecoder
from visiontune.data.label_maps import Coding, label_maps
from visiontune.data.readers.idx_files import find_idx_files, read_idx_images, read_idx_labels
from visiontune.data.scan import orientation_note, read_image_sizes
from visiontune.data.schema import Sample, Source, TaskInfo
from visiontune.errors import UserError

TRAIN_TEST = {"train": {"train": True}, "test": {"train": False}}
SPLIT_TRAIN_TEST = {"train": {"split": "train"}, "test": {"split": "test"}}
SPLIT_ALL = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
UNSPLIT: dict[str | None, dict[str, Any]] = {None: {}}

# split -> the arguments of torchvision's class that select it.
SETS: dict[str, dict[Any, dict[str, Any]]] = {
    "MNIST": TRAIN_TEST,
    "FashionMNIST": TRAIN_TEST,
    "KMNIST": TRAIN_TEST,
    "CIFAR10": TRAIN_TEST,
    "CIFAR100": TRAIN_TEST,
    "USPS": TRAIN_TEST,
    "SVHN": SPLIT_TRAIN_TEST,
    "STL10": SPLIT_TRAIN_TEST,
    "GTSRB": SPLIT_TRAIN_TEST,
    "Food101": SPLIT_TRAIN_TEST,
    "StanfordCars": SPLIT_TRAIN_TEST,
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
    "Flowers102": SPLIT_ALL,
    "DTD": SPLIT_ALL,
    "FGVCAircraft": SPLIT_ALL,
    "RenderedSST2": SPLIT_ALL,
    "Country211": {"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}},
    "Imagenette": {"train": {"split": "train"}, "val": {"split": "val"}},
    "EuroSAT": UNSPLIT,
    "SUN397": UNSPLIT,
}
# Data sets with masks: their folder, and the meaning of their values.
MASKS = {"OxfordIIITPet": ("oxford-iiit-pet/annotations/trimaps", {1: "pet", 2: "background", 3: "border"})}
IN_IDX_FILES = ("MNIST", "FashionMNIST", "KMNIST")


def read(
    root: str | Path | None,
    name: str | None,
    download: bool = True,
    task: str = "classification",
    orientation: str = "apply",
    on_bad_image: str = "error",
    max_pixels: int | None = MAX_PIXELS,
    allow_download: bool = True,
) -> Source:
    """Read a data set with its official splits.

    Small data sets are kept in memory; image files are read from disk on demand.

    Args:
        root: folder of the data set, or where to download it.
        name: torchvision's class name, such as `CIFAR10`.
        download: whether to download a data set that is not under the root.
        orientation: whether images and masks are turned (`apply`) or not (`ignore`) as their EXIF orientation says.
        on_bad_image: what happens to files that cannot be read: `error`, or `skip` to leave out their samples.
        max_pixels: larger images and masks cannot be read.
        allow_download: False for a run that exists; `download` then does not count.

    Raises:
        UserError: the name is unknown, the root is not set, or the data set neither exists nor can be downloaded.
    """
    if name not in SETS:
        names = {known.lower(): known for known in SETS}
        near = [names[match] for match in get_close_matches((name or "").lower(), names, n=1, cutoff=0.4)]
        hint = f" Did you mean data.name={near[0]}?" if near else ""
        raise UserError(f"data.name={name}: unknown data set.{hint} Known are {', '.join(SETS)}.")
    if not root:
        raise UserError("data.root is not set: write the folder of the data set, such as data.root=data")
    root = Path(root).expanduser().absolute()
    download = download and allow_download
    if name in IN_IDX_FILES:
        files = find_idx_files(root, name)
        if files is None:
            _open(name, root, SETS[name]["train"], download)
            files = find_idx_files(root, name) or {}
        samples = [
            Sample(f"{name}/{split}/{i:05d}", {task: label}, split, image=image)
            for split, (images, labels) in files.items()
            for i, (image, label) in enumerate(zip(read_idx_images(images), read_idx_labels(labels), strict=True))
        ]
        classes = _class_names(getattr(datasets, name).classes, 10)
        return Source({task: TaskInfo("classification", classes)}, samples, [], root)
    samples = []
    classes = []
    for split, options in SETS[name].items():
        dataset = _open(name, root, options, download)
        labels = _labels(dataset)
        classes = classes or _class_names(getattr(dataset, "classes", None), max(labels) + 1)
        samples += [
            Sample(path or f"{name}/{split or 'all'}/{i:05d}", {task: label}, split, image=image)
            for i, (path, image, label) in enumerate(zip(*_images_or_paths(dataset, root), labels, strict=True))
        ]
    schema = {task: TaskInfo("classification", classes)}
    if name in MASKS:
        bad, decoder = BadFiles(on_bad_image), ImageDecoder(orientation=orientation, max_pixels=max_pixels)
        schema |= _add_masks(samples, root, *MASKS[name], decoder, bad)
        samples = [sample for sample in samples if len(sample.targets) == len(schema)]
        notes = bad.notes()
        if len(schema) > 1:
            notes += orientation_note(root, [sample.path for sample in samples], orientation)
        return Source(schema, samples, notes, root)
    return Source(schema, samples, [], root)


def _add_masks(
    samples: list[Sample], root: Path, folder: str, meaning: dict[int, str], decoder: ImageDecoder, bad: BadFiles
) -> dict[str, TaskInfo]:
    """Add the masks of the same stems to the samples, except for files that `bad` leaves out.

    Returns:
        The task, or {} if the folder does not exist.
    """
    if not (root / folder).is_dir():
        return {}
    masks = {sample.path: f"{folder}/{Path(sample.path).stem}.png" for sample in samples}
    coding = Coding([*meaning.values()], [*meaning], decoder=decoder)
    stored = label_maps(root, masks, read_image_sizes(root, masks, decoder, bad), coding, bad)
    for sample in samples:
        if sample.path in stored:
            sample.targets["segmentation"] = stored[sample.path]
    return {"segmentation": TaskInfo("segmentation", coding.classes)}


def _open(name: str, root: Path, options: dict[str, Any], download: bool) -> Any:
    """Open the data set with torchvision; downloads only what is missing."""
    dataset_class = getattr(datasets, name)
    try:
        return dataset_class(root, **options)
    except (RuntimeError, OSError) as error:
        missing = error
    if not download:
        raise UserError(
            f"{name} is not under data.root={root} ({missing}). Copy it there, or write data.download=true (with a "
            "run that exists, trust=true)."
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        return dataset_class(root, **options, download=True)
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(
            f"{name} is not under data.root={root}, and could not be downloaded ({error}). "
            f"Copy the files there in the layout of torchvision.datasets.{name}, or choose another data.name."
        ) from error


def _labels(dataset: Any) -> list[int]:
    for name in ("targets", "labels", "_labels"):
        if hasattr(dataset, name):
            return [int(label) for label in getattr(dataset, name)]
    return [int(label) for _, label in _pairs(dataset)]


def _images_or_paths(dataset: Any, root: Path) -> tuple[list[str], list[Tensor | None]]:
    """Paths under the root ("" for images in memory), and images (None for files)."""
    if hasattr(dataset, "data"):
        images = _as_nchw(torch.as_tensor(np.asarray(dataset.data)))
        return [""] * len(images), list(images)
    for name in ("_image_files", "_images"):
        if hasattr(dataset, name):
            files = getattr(dataset, name)
            break
    else:
        files = [path for path, _ in _pairs(dataset)]
    return [Path(os.path.relpath(path, root)).as_posix() for path in files], [None] * len(files)


def _pairs(dataset: Any) -> list[tuple[Any, int]]:
    """`(file, label)` of data sets that store such pairs."""
    return dataset.samples if hasattr(dataset, "samples") else dataset._samples


def _as_nchw(images: Tensor) -> Tensor:
    """`(N, H, W)`, `(N, H, W, 3)` or `(N, C, H, W)` -> `(N, C, H, W)`."""
    if images.ndim == 3:
        return images.unsqueeze(1)
    return images.permute(0, 3, 1, 2) if images.shape[-1] == 3 else images


def _class_names(names: Any, count: int) -> list[str]:
    """Class names as single words: "7" for MNIST's "7 - seven", the first synonym, numbers without names."""
    if not names:
        return [str(label) for label in range(count)]
    first = [name if isinstance(name, str) else name[0] for name in names]
    return [name.split(" - ")[0] for name in first]
