"""Boxes, masks and label maps over an image, and images side by side.

All results are uint8 ``(3, H, W)``; small images are enlarged as in `caption`.
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
from visiontune.errors import one_line
from visiontune.models.heads.drawing import enlarge, widen

Colour = tuple[int, int, int]

# Okabe and Ito (2008), which colour-blind readers can tell apart; without its black.
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
LEGEND = 20  # largest number of entries
BACKGROUND: Colour = (38, 38, 38)


def class_colours(classes: Sequence[str]) -> list[Colour]:
    """A colour for each class, by its index; the class "background" is black."""
    colours = [_wheel(i) for i in range(len(classes))]
    return [(0, 0, 0) if name == "background" else colour for name, colour in zip(classes, colours, strict=True)]


def draw_objects(
    image: Tensor,
    boxes: Tensor,
    names: Sequence[str],
    masks: Tensor | None = None,
    classes: Sequence[str] = (),
) -> Tensor:
    """Draw boxes with their texts, and their masks if there are any; where objects overlap, the first is on top.

    Args:
        image: uint8 ``(1 or 3, H, W)``.
        boxes: ``(N, 4)`` x1, y1, x2, y2 in pixels of the image.
        names: a text for each box, such as "dog" or "dog 93%".
        masks: ``(N, H, W)`` of 0 and 1.
        classes: all class names, whose order decides the colours. Without them, the name of a class decides its colour.
    """
    colour_by_class = dict(zip(classes, class_colours(classes), strict=True))
    labels = [_class_name(name) for name in names]
    colours = [colour_by_class.get(label) or _wheel(zlib.crc32(label.encode()) % 24) for label in labels]
    enlarged = enlarge(image.cpu())
    factor = enlarged.shape[-1] // image.shape[-1]
    if masks is not None and len(masks):
        enlarged = _tint(enlarged, masks.cpu() > 0, colours, factor)
    canvas = Image.fromarray(enlarged.permute(1, 2, 0).numpy())
    draw = ImageDraw.Draw(canvas)
    size = max(12, canvas.width // 50)
    corners = (boxes.detach().cpu().float() * factor).round().int().tolist()
    for (left, top, right, bottom), colour in [*zip(corners, colours, strict=True)][::-1]:
        edges = (left, top, max(left, right - 1), max(top, bottom - 1))
        draw.rectangle(edges, outline=colour, width=max(2, canvas.width // 300))
    for (left, top, _, _), name, colour in [*zip(corners, names, colours, strict=True)][::-1]:
        _write_label(draw, name, (left, top), colour, size)
    return _to_tensor(canvas)


def draw_label_map(image: Tensor, labels: Tensor, classes: Sequence[str]) -> Tensor:
    """Colour each pixel of the image by its class, with a legend of the classes that occur below the image.

    Args:
        image: uint8 ``(1 or 3, H, W)``.
        labels: ``(H, W)`` integers; `IGNORE` has no colour.
    """
    colours = class_colours(classes)
    labels = labels.cpu()
    present, counts = labels[labels != IGNORE].unique(return_counts=True)
    largest = present[counts.argsort(descending=True)].tolist()
    enlarged = enlarge(image.cpu())
    factor = enlarged.shape[-1] // image.shape[-1]
    if largest:
        enlarged = _tint(enlarged, labels == present[:, None, None], [colours[i] for i in present.tolist()], factor)
    enlarged = widen(enlarged)
    entries = [(classes[i], colours[i]) for i in sorted(largest[:LEGEND])]
    if len(largest) > LEGEND:
        entries.append((f"and {len(largest) - LEGEND} more", BACKGROUND))
    return torch.cat([enlarged, _draw_legend(entries, enlarged.shape[-1])], 1)


def side_by_side(images: Sequence[Tensor], titles: Sequence[str]) -> Tensor:
    """Images ``(3, H, W)`` next to each other, each below its title, such as "truth" and "prediction"."""
    height, gap = max(image.shape[-2] for image in images), 6
    columns = []
    for image, title in zip(images, titles, strict=True):
        size = max(14, image.shape[-1] // 22)
        strip = Image.new("RGB", (image.shape[-1], size + 10), BACKGROUND)
        ImageDraw.Draw(strip).text((5, 2), one_line(title), fill="white", font=ImageFont.load_default(size))
        below = torch.full((3, height - image.shape[-2], image.shape[-1]), 255, dtype=torch.uint8)
        columns += [torch.cat([_to_tensor(strip), image, below], 1)]
    tallest = max(column.shape[-2] for column in columns)
    sheet = torch.full((3, tallest, sum(c.shape[-1] + gap for c in columns) - gap), 255, dtype=torch.uint8)
    left = 0
    for column in columns:
        sheet[:, : column.shape[-2], left : left + column.shape[-1]] = column
        left += column.shape[-1] + gap
    return sheet


def _wheel(index: int) -> Colour:
    """The palette, then hues at steps of the golden ratio (so that neighbours differ) in three lightnesses."""
    if index < len(PALETTE):
        return PALETTE[index]
    red, green, blue = colorsys.hls_to_rgb(index * 0.618034 % 1, (0.45, 0.7, 0.3)[index % 3], 0.75)
    return round(red * 255), round(green * 255), round(blue * 255)


def _class_name(name: str) -> str:
    return re.sub(r"( \d+ ?%| \(crowd\))$", "", name)


def _tint(image: Tensor, masks: Tensor, colours: list[Colour], factor: int) -> Tensor:
    """Colour `masks` ``(N, H, W)`` bool on an image that is `factor` times as large; the first mask is on top."""
    visible = masks & (masks.cumsum(0, dtype=torch.int16) == 1)
    large = visible.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return draw_segmentation_masks(image, large, alpha=OPACITY, colors=colours)


def _write_label(draw: ImageDraw.ImageDraw, text: str, corner: tuple[int, int], colour: Colour, size: int) -> None:
    """Text on the class's colour above a box's upper left corner, or inside the box at the edge of the image."""
    font, text = ImageFont.load_default(size), one_line(text)
    width, height = round(draw.textlength(text, font=font)) + 4, size + 4
    left = max(0, min(corner[0], draw.im.size[0] - width))
    top = corner[1] - height if corner[1] >= height else max(0, corner[1])
    draw.rectangle((left, top, left + width - 1, top + height - 1), fill=colour)
    draw.text((left + 2, top), text, fill=_text_colour(colour), font=font)


def _text_colour(colour: Colour) -> Colour:
    """Black or white, whichever has more contrast (luminance of ITU-R 601)."""
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 140
    return (255, 255, 255) if dark else (0, 0, 0)


def _draw_legend(entries: Sequence[tuple[str, Colour]], width: int) -> Tensor:
    """A strip of colour squares with their names, in as many rows as they need."""
    size = max(12, width // 40)
    font, row, left, top = ImageFont.load_default(size), size + 8, 5, 4
    strip = Image.new("RGB", (width, row * max(1, len(entries)) + 4), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for name, colour in ((one_line(text), colour) for text, colour in entries):
        entry_width = size + 5 + round(draw.textlength(name, font=font))
        if left > 5 and left + entry_width > width - 5:
            left, top = 5, top + row
        draw.rectangle((left, top + 2, left + size, top + 2 + size), fill=colour, outline="white")
        draw.text((left + size + 5, top), name, fill="white", font=font)
        left += entry_width + 12
    return _to_tensor(strip.crop((0, 0, width, top + row)))


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
