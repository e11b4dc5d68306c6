"""Datasets as a team writes them: twelve images of a coloured rectangle, in every form that `data=python` takes."""

from copy import copy
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from visiontune.data import TaskInfo


class Rectangles(Dataset):
    """Item i: a rectangle of class i % 3, in the colour of its class, on noise; `order` shuffles the items."""

    classes = ("red", "green", "blue")

    def __init__(self, count: int = 12, form: str = "pil", task: str = "classification", order: int | None = None):
        self.numbers = list(range(count)) if order is None else np.random.default_rng(order).permutation(count).tolist()
        self.form, self.task = form, task

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        number = self.numbers[index]
        pixels = np.random.default_rng(number).integers(90, 130, (20, 24, 3), dtype=np.uint8)
        x, y, label = 2 + number % 5, 3 + number % 4, number % 3
        pixels[y : y + 9, x : x + 11] = np.eye(3, dtype=np.uint8)[label] * 255
        labels = np.zeros((20, 24), dtype=np.int64)
        labels[y : y + 9, x : x + 11] = label + 1
        boxes = {"boxes": [[x, y, x + 11, y + 9]], "labels": [label]}
        targets = {
            "classification": label,
            "multilabel": np.eye(3)[label],
            "regression": [float(label), number / 10],
            "segmentation": torch.from_numpy(labels),
            "detection": boxes,
            "instances": boxes | {"masks": torch.from_numpy(labels > 0)[None]},
        }
        target = {task: targets[task] for task in self.task.split("+")} if "+" in self.task else targets[self.task]
        return _in_form(pixels, self.form), target


class NoNames(Rectangles):
    classes = ()


class Grouped(Rectangles):
    @property
    def groups(self) -> list[int]:
        return [number // 4 for number in self.numbers]


class Random(Rectangles):
    """With a random transform, which is not for a Dataset."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, target = super().__getitem__(index)
        return np.asarray(image) // 2 + np.random.randint(0, 99, (20, 24, 3), dtype=np.uint8), target


class Deep(Rectangles):
    """Grey images with values from 0 to 139."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        values = np.arange(480, dtype=np.uint16).reshape(20, 24) % 140
        values[0, 0] = index
        return Image.fromarray(values), super().__getitem__(index)[1]


class Broken(Rectangles):
    """Item 5 is what `item` says."""

    def __init__(self, item: str, **options: Any) -> None:
        super().__init__(**options)
        self.item = item

    def __getitem__(self, index: int) -> Any:
        image, target = super().__getitem__(index)
        if index != 5:
            return image, target
        if self.item == "missing":
            raise FileNotFoundError("5.jpg")
        return {
            "bare": image,
            "float": (torch.zeros(3, 4, 4), target),
            "text": (image, "cat"),
            "label": (image, 3),
            "words": (image, {"boxes": [["a", "b", "c", "d"]], "labels": [0]}),
            "crowd": (image, {"boxes": [[0, 0, 9, 9]], "labels": [0], "crowd": ["no"]}),
            "vector": (image, [1.0]),
            "box": (image, {"boxes": [[0, 0, 30, 5]], "labels": [0]}),
            "map": (image, torch.zeros(5, 5, dtype=torch.int64)),
        }[self.item]


class Unbuildable(Rectangles):
    def __init__(self) -> None:
        raise AssertionError


def _in_form(pixels: np.ndarray, form: str) -> Image.Image | np.ndarray | Tensor:
    if form == "tensor":
        return torch.from_numpy(pixels).permute(2, 0, 1)
    return pixels if form == "numpy" else Image.fromarray(pixels)


class Module(L.LightningDataModule):
    """Batches as the contract asks for, shuffled and noisy in training."""

    schema = {"classification": TaskInfo("classification", ["red", "green", "blue"])}  # noqa: RUF012

    noisy = False

    def __init__(self, size: int = 16, scale: float = 1.0) -> None:
        super().__init__()
        self.size, self.scale = size, scale

    def collate(self, items: list[tuple[Tensor, int]]) -> dict[str, Any]:
        images = torch.stack([image for image, _ in items]).float() / 255
        images = torch.nn.functional.interpolate(images, (self.size, self.size)) * self.scale
        if self.noisy:
            images = (images + 0.05 * torch.rand_like(images)).clamp(max=1)
        return {"image": images, "targets": {"classification": [label for _, label in items]}}

    def loader(self, count: int, shuffle: bool = False) -> DataLoader:
        noisy = copy(self)
        noisy.noisy = shuffle
        return DataLoader(Rectangles(count, "tensor"), 8, shuffle=shuffle, collate_fn=noisy.collate)

    def train_dataloader(self) -> DataLoader:
        return self.loader(30, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self.loader(12)

    def test_dataloader(self) -> DataLoader:
        return self.loader(9)


class NoSchema(Module):
    schema = None


class Pairs(Module):
    def collate(self, items: list[tuple[Tensor, int]]) -> Any:
        return torch.stack([image for image, _ in items]), [label for _, label in items]
