"""Boxes, masks and label maps over an image, and images side by side.

All results are uint8 ``(3, H, W)``, enlarged as `caption` does where the image is small.
"""

import colorsys
import re
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import draw_segmentation_masks

from visiontune.data.targets import IGNORE
from visiontune.models.heads.drawing import enlarged

Colour = tuple[int, int, int]

# Okabe and Ito (2008), told apart by colour-blind readers; without its black.
PALETTE: list[Colour] = [
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (213, 94, 0),
    (0, 114, 178),
    (204, 121, 167),
    (240, 228, 66),
]
OPACITY = 0.5
LEGEND = 20  # entries: more are not read
PAPER: Colour = (38, 38, 38)


def colours(classes: Sequence[str]) -> list[Colour]:
    """A colour a class, by its place in the list; a background is black."""
    few = len(classes) <= len(PALETTE)
    chosen = [PALETTE[i] if few else _wheel(i) for i in range(len(classes))]
    return [(0, 0, 0) if name == "background" else colour for name, colour in zip(classes, chosen, strict=True)]


def objects_picture(
    image: Tensor,
    boxes: Tensor,
    names: Sequence[str],
    masks: Tensor | None = None,
    classes: Sequence[str] = (),
) -> Tensor:
    """Boxes with a text each, over their masks where there are some; of overlapping ones the first is on top.

    Args:
        image: uint8 ``(1 or 3, H, W)``.
        boxes: ``(N, 4)`` x1, y1, x2, y2 in pixels of the image.
        names: a text a box, such as "dog" or "dog 93%".
        masks: ``(N, H, W)`` of 0 and 1.
        classes: all class names, whose order then gives the colours; else a class name alone gives its colour.
    """
    known = dict(zip(classes, colours(classes), strict=True))
    picked = [known.get(_class_of(name)) or _wheel(zlib.crc32(_class_of(name).encode()) % 24) for name in names]
    picture = enlarged(image.cpu())
    factor = picture.shape[-1] // image.shape[-1]
    if masks is not None and len(masks):
        picture = _tinted(picture, masks.cpu() > 0, picked, factor)
    canvas = Image.fromarray(picture.permute(1, 2, 0).numpy())
    draw = ImageDraw.Draw(canvas)
    size = max(12, canvas.width // 50)
    corners = (boxes.detach().cpu().float() * factor).round().int().tolist()
    for (left, top, right, bottom), colour in [*zip(corners, picked, strict=True)][::-1]:
        edges = (left, top, max(left, right - 1), max(top, bottom - 1))
        draw.rectangle(edges, outline=colour, width=max(2, canvas.width // 300))
    for (left, top, _, _), name, colour in [*zip(corners, names, picked, strict=True)][::-1]:
        _label(draw, name, (left, top), colour, size)
    return _tensor(canvas)


def labels_picture(image: Tensor, labels: Tensor, classes: Sequence[str]) -> Tensor:
    """A class a pixel as a colour over the image, and under it the names of the classes that occur.

    Args:
        image: uint8 ``(1 or 3, H, W)``.
        labels: ``(H, W)`` integers; `IGNORE` is left as it is.
    """
    picked = colours(classes)
    labels = labels.cpu()
    found, counts = labels[labels != IGNORE].unique(return_counts=True)
    largest = found[counts.argsort(descending=True)].tolist()
    picture = enlarged(image.cpu())
    factor = picture.shape[-1] // image.shape[-1]
    if largest:
        picture = _tinted(picture, labels == found[:, None, None], [picked[i] for i in found.tolist()], factor)
    shown = sorted(largest[:LEGEND])
    entries = [(classes[i], picked[i]) for i in shown]
    if len(largest) > LEGEND:
        entries.append((f"and {len(largest) - LEGEND} more", PAPER))
    return torch.cat([picture, _legend(entries, picture.shape[-1])], 1)


def beside(pictures: Sequence[Tensor], titles: Sequence[str]) -> Tensor:
    """Images ``(3, H, W)`` next to each other, a title over each, such as "truth" and "prediction"."""
    height, gap = max(picture.shape[-2] for picture in pictures), 6
    columns = []
    for picture, title in zip(pictures, titles, strict=True):
        size = max(14, picture.shape[-1] // 22)
        strip = Image.new("RGB", (picture.shape[-1], size + 10), PAPER)
        ImageDraw.Draw(strip).text((5, 2), title, fill="white", font=ImageFont.load_default(size))
        below = torch.full((3, height - picture.shape[-2], picture.shape[-1]), 255, dtype=torch.uint8)
        columns += [torch.cat([_tensor(strip), picture, below], 1)]
    tallest = max(column.shape[-2] for column in columns)
    sheet = torch.full((3, tallest, sum(c.shape[-1] + gap for c in columns) - gap), 255, dtype=torch.uint8)
    left = 0
    for column in columns:
        sheet[:, : column.shape[-2], left : left + column.shape[-1]] = column
        left += column.shape[-1] + gap
    return sheet


def _wheel(index: int) -> Colour:
    """The palette, then hues a golden section apart (neighbours differ most) in three lightnesses."""
    if index < len(PALETTE):
        return PALETTE[index]
    red, green, blue = colorsys.hls_to_rgb(index * 0.618034 % 1, (0.45, 0.7, 0.3)[index % 3], 0.75)
    return round(red * 255), round(green * 255), round(blue * 255)


def _class_of(name: str) -> str:
    return re.sub(r"( \d+ ?%| \(crowd\))$", "", name)


def _tinted(picture: Tensor, masks: Tensor, picked: list[Colour], factor: int) -> Tensor:
    """`masks` ``(N, H, W)`` bool over the image that is `factor` times as large; the first is on top."""
    seen = masks & (masks.cumsum(0, dtype=torch.int16) == 1)
    large = seen.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return draw_segmentation_masks(picture, large, alpha=OPACITY, colors=picked)


def _label(draw: ImageDraw.ImageDraw, text: str, corner: tuple[int, int], colour: Colour, size: int) -> None:
    """Text on the class's colour over a box's upper left corner, or inside it where the image ends there."""
    font = ImageFont.load_default(size)
    width, height = round(draw.textlength(text, font=font)) + 4, size + 4
    left = max(0, min(corner[0], draw.im.size[0] - width))
    top = corner[1] - height if corner[1] >= height else max(0, corner[1])
    draw.rectangle((left, top, left + width - 1, top + height - 1), fill=colour)
    draw.text((left + 2, top), text, fill=_on(colour), font=font)


def _on(colour: Colour) -> Colour:
    """Black or white, whichever is read better on a colour (luminance of ITU-R 601)."""
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 140
    return (255, 255, 255) if dark else (0, 0, 0)


def _legend(entries: Sequence[tuple[str, Colour]], width: int) -> Tensor:
    """A strip of colour squares with their names, in as many rows as they take."""
    size = max(12, width // 40)
    font, row, left, top = ImageFont.load_default(size), size + 8, 5, 4
    strip = Image.new("RGB", (width, row * max(1, len(entries)) + 4), PAPER)
    draw = ImageDraw.Draw(strip)
    for name, colour in entries:
        wide = size + 5 + round(draw.textlength(name, font=font))
        if left > 5 and left + wide > width - 5:
            left, top = 5, top + row
        draw.rectangle((left, top + 2, left + size, top + 2 + size), fill=colour, outline="white")
        draw.text((left + size + 5, top), name, fill="white", font=font)
        left += wide + 12
    return _tensor(strip.crop((0, 0, width, top + row)))


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
