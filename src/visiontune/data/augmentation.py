"""Augmentation of training images.

All steps are torchvision v2 transforms on uint8, so boxes and masks that are tv_tensors move with the image.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any

import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from visiontune.data.geometry import ResizeAndCut, fit
from visiontune.data.target_kinds import TargetKind, steps_after, steps_before
from visiontune.data.target_transforms import Fill, ImageOnly, RecolorTargets
from visiontune.errors import UserError

AUTO = {"trivial": v2.TrivialAugmentWide, "rand": v2.RandAugment, "augmix": v2.AugMix}


@dataclass(frozen=True)
class Augment:
    """The keys of `augment.*`; the defaults disable all augmentation.

    Attributes:
        crop: crop a random rectangle with this share of the area, as `[min, max]`, such as `[0.5, 1.0]`.
        ratio: range of the change of the rectangle's aspect ratio, such as `[3/4, 4/3]`; None does not change it.
        resize_range: resize by a factor in this range, then crop or pad to the input size, such as `[0.5, 1.5]`.
            Replaces `crop` for objects of many sizes.
        flip: flip horizontally with probability 0.5. Disable it if flipping changes the class (digits, text).
        vertical_flip: flip vertically with probability 0.5 (aerial or microscope images).
        rotate: largest rotation in degrees, in both directions.
        scale: range of the zoom factor, such as `[0.9, 1.1]`.
        fill: grey value (0..255) for pixels that rotation, zoom and padding leave empty (`IGNORE` in label maps).
        min_visible: drop an object if less than this share of its box is left in the image.
        color: change brightness, contrast and saturation by a random factor from 1 - color to 1 + color.
        hue: shift the hue by up to this share of the color circle, in both directions (0..0.5).
        grey: probability of converting to grey.
        blur: probability of a slight blur.
        erase: probability of erasing a rectangle of the image; targets are not changed.
        auto: `trivial`, `rand` or `augmix`, published policies of many operations.
        mixup: alpha of mixup (average two images); 0 disables it.
        cutmix: alpha of cutmix (paste a rectangle of another image); 0 disables it. With mixup and cutmix, each batch
            uses one of them.
    """

    crop: tuple[float, float] | None = None
    ratio: tuple[float, float] | None = (3 / 4, 4 / 3)
    resize_range: tuple[float, float] | None = None
    flip: bool = False
    vertical_flip: bool = False
    rotate: float = 0.0
    scale: tuple[float, float] | None = None
    fill: int = 0
    min_visible: float = 0.2
    color: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    erase: float = 0.0
    auto: str | None = None
    mixup: float = 0.0
    cutmix: float = 0.0

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Augment":
        """Build from a config of checked types, see `visiontune.config.schema.data.Augment`.

        Raises:
            UserError: a key is unknown, or a range or a combination has no meaning.
        """
        known = [field.name for field in fields(cls)]
        for key in config:
            if key not in known:
                raise UserError(f"augment.{key}: unknown key; known are {', '.join(known)}")
        augment = cls(**config)
        for key in ("crop", "ratio", "resize_range", "scale"):
            pair = getattr(augment, key)
            if pair is not None and not 0 < pair[0] <= pair[1]:
                raise UserError(f"augment.{key}={pair}: write two increasing numbers, such as augment.{key}=[0.8, 1.0]")
        if augment.crop is not None and augment.crop[1] > 1:
            raise UserError(f"augment.crop={augment.crop}: write shares of the image's area up to 1.0")
        if augment.crop is not None and augment.resize_range is not None:
            raise UserError("augment.crop and augment.resize_range both crop the image; write augment.crop=null")
        return augment


def train_transform(
    augment: Augment,
    size: tuple[int, int],
    resize: str = "squash",
    channels: int = 3,
    kinds: Collection[TargetKind] = (),
) -> v2.Transform:
    """`fit` with the augmentation of `augment`, for uint8 images.

    Args:
        kinds: the kinds of the targets that are transformed with the image.

    Raises:
        UserError: `augment.auto` is set, but there are not three channels, or targets have geometry.
    """
    geometric = sorted({kind.name for kind in kinds if kind.has_geometry})
    recolored = any(kind.recolored for kind in kinds)
    steps = [*steps_before(kinds), *_fit_steps(augment, size, resize)]
    if augment.flip:
        steps.append(v2.RandomHorizontalFlip())
    if augment.vertical_flip:
        steps.append(v2.RandomVerticalFlip())
    if augment.rotate or augment.scale:
        fill: Any = dict(Fill(augment.fill).by_type)
        steps.append(
            v2.RandomAffine(augment.rotate, scale=augment.scale, interpolation=InterpolationMode.BILINEAR, fill=fill)
        )
    steps += steps_after(kinds, augment.min_visible)
    if augment.auto:
        if channels != 3:
            raise UserError(f"augment.auto={augment.auto} needs data.channels=3; write augment.auto=null")
        if geometric:
            raise UserError(
                f"augment.auto={augment.auto} rotates and shears images but not the targets of "
                f"{' and '.join(geometric)}; write augment.auto=null augment.color=0.3"
            )
        steps.append(AUTO[augment.auto](fill=augment.fill))
    color_steps: list[v2.Transform] = []
    if augment.color or augment.hue:
        # Only images with three channels have saturation and hue.
        three_channels = {"saturation": augment.color, "hue": augment.hue} if channels == 3 else {}
        color_steps.append(v2.ColorJitter(brightness=augment.color, contrast=augment.color, **three_channels))
    if augment.grey and channels == 3:
        color_steps.append(v2.RandomGrayscale(augment.grey))
    steps += [RecolorTargets(step) for step in color_steps] if recolored else color_steps
    image_only: list[v2.Transform] = []
    if augment.blur:
        image_only.append(v2.RandomApply([v2.GaussianBlur(5, (0.1, 1.5))], augment.blur))
    if augment.erase:
        image_only.append(v2.RandomErasing(augment.erase))
    steps += [ImageOnly(step) for step in image_only] if geometric else image_only
    return steps[0] if len(steps) == 1 else v2.Compose(steps)


def _fit_steps(augment: Augment, size: tuple[int, int], resize: str) -> list[v2.Transform]:
    """The transforms that crop and resize images to `size` (H, W)."""
    if augment.resize_range is not None:
        return [ResizeAndCut(size, augment.resize_range, resize, augment.fill)]
    if augment.crop is None:
        return fit(size, resize, augment.fill)
    # If evaluation squashes images, a crop with the image's aspect ratio is squashed in the same way.
    aspect = size[1] / size[0] if resize == "crop" else None
    crop = ShareCrop(augment.crop, augment.ratio or (1.0, 1.0), aspect)
    return [crop, *fit(size, "letterbox" if resize == "letterbox" else "squash", augment.fill)]


class ShareCrop(v2.Transform):
    """Crop a random rectangle with a share of the image's area.

    The aspect ratio of the rectangle varies around that of the image (`aspect=None`) or around `aspect` (width /
    height), while that of `v2.RandomResizedCrop` varies around 1. The crop is not resized.
    """

    def __init__(self, share: tuple[float, float], ratio: tuple[float, float], aspect: float | None) -> None:
        super().__init__()
        self.share, self.ratio, self.aspect = share, ratio, aspect

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        draw = torch.rand(4).tolist()
        area = height * width * (self.share[0] + draw[0] * (self.share[1] - self.share[0]))
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        aspect = (self.aspect or width / height) * math.exp(low + draw[1] * (high - low))
        # The rectangle is limited to the image.
        w = max(1, min(width, round(math.sqrt(area * aspect))))
        h = max(1, min(height, round(math.sqrt(area / aspect))))
        return {"top": int(draw[2] * (height - h + 1)), "left": int(draw[3] * (width - w + 1)), "height": h, "width": w}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.crop, inpt, **params)
