"""Convert the items of a user's Dataset to images and targets in the forms that the package uses."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visiontune.data.image_files import describe_excess, stored_orientation
from visiontune.data.images import ImageDecoder, with_channels
from visiontune.data.pixels import grey_values, image_pixels, is_deep
from visiontune.data.target_kinds import TargetKind
from visiontune.data.target_kinds.vectors import describe
from visiontune.errors import UserError


class Items:
    """Reads a map-style Dataset of (image, target).

    The last item is cached, so that image and target of a sample are loaded once.

    Args:
        kinds: task -> kind of its target.
        single: whether there is one task and items hold its target; otherwise items hold {task: target}.
        decoder: how PIL images become pixels.
        name: name of the Dataset in error messages.
    """

    def __init__(
        self, dataset: Any, kinds: Mapping[str, TargetKind], single: bool, decoder: ImageDecoder, name: str
    ) -> None:
        self.dataset, self.kinds, self.single, self.decoder, self.name = dataset, kinds, single, decoder, name
        self._last: tuple[int, tuple[Any, Any]] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, index: int) -> Tensor:
        """``(channels, H, W)`` uint8."""
        image = self._item(index)[0]
        try:
            return _image(image, self.decoder)
        except ValueError as error:
            raise UserError(f"{self.name}[{index}]: image: {error}") from error

    def target(self, index: int, task: str, size: tuple[int, int]) -> Any:
        """The target for a task in the form of `visiontune.data.targets`; None if the image is not labelled.

        Args:
            size: (H, W) of the image.
        """
        value = self._item(index)[1]
        if not self.single:
            if not isinstance(value, Mapping) or set(value) - set(self.kinds):
                actual = f"the keys {', '.join(map(str, value))}" if isinstance(value, Mapping) else describe(value)
                raise UserError(
                    f"{self.name}[{index}]: expected a target {{{', '.join(self.kinds)}: ...}}, got {actual}"
                )
            value = value.get(task)
        if value is None:
            return None
        try:
            return self.kinds[task].convert(value, size)
        except (ValueError, TypeError, RuntimeError) as error:  # the last two from numpy and torch
            raise UserError(f"{self.name}[{index}]: {task} target: {error}") from error

    def grey_values(self, index: int) -> tuple[float, float] | None:
        """Smallest and largest value of a PIL image that is grey with more than 8 bits; None for other images."""
        image = self._item(index)[0]
        return grey_values(image) if isinstance(image, Image.Image) and is_deep(image) else None

    def content(self, index: int) -> str:
        """A hash of the image's pixels, independent of `channels`."""
        image = self._item(index)[0]
        if isinstance(image, Image.Image) and image.mode == "P":
            image = image.convert("RGBA")
        pixels = np.ascontiguousarray(image)
        head = f"{pixels.shape}{pixels.dtype.str}".encode()
        return hashlib.blake2b(head + pixels.tobytes(), digest_size=16).hexdigest()

    def reload(self) -> None:
        """Forget the last item."""
        self._last = None

    def _item(self, index: int) -> tuple[Any, Any]:
        last = self._last  # threads may replace it at any time
        if last is not None and last[0] == index:
            return last[1]
        try:
            item = self.dataset[index]
        except Exception as error:  # user code may raise anything
            raise UserError(f"{self.name}[{index}] raises {type(error).__name__}: {error}") from error
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise UserError(f"{self.name}[{index}]: expected (image, target), got {describe(item)}")
        if isinstance(item[0], Image.Image):  # it may not be decoded yet
            width, height = item[0].size
            if problem := describe_excess((width, height), width * height, self.decoder.max_pixels):
                raise UserError(f"{self.name}[{index}]: image: {problem}")
        self._last = index, (item[0], item[1])
        return self._last[1]


def _image(image: Any, decoder: ImageDecoder) -> Tensor:
    if isinstance(image, Image.Image):
        # First: Pillow turns a TIFF file when it decodes it.
        pixels = image_pixels(image, decoder.channels, decoder.grey_range)
        return torch.from_numpy(decoder.turn(pixels, stored_orientation(image))).permute(2, 0, 1)
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image)
        image = image[None] if image.ndim == 2 else image.permute(2, 0, 1) if image.ndim == 3 else image
    if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 3 or len(image) not in (1, 3, 4):
        actual = f"{image.dtype} of shape {tuple(image.shape)}" if isinstance(image, Tensor) else describe(image)
        raise ValueError(
            "expected a PIL image, a uint8 tensor (C, H, W) or a uint8 array (H, W, C) with 1, 3 or 4 channels, "
            f"got {actual}"
        )
    return with_channels(image.as_subclass(Tensor).contiguous(), decoder.channels)
