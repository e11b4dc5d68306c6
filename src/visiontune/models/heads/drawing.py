"""Drawings of results: captions on images, grids, the confusion matrix."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.io import encode_png
from torchvision.transforms.v2 import functional as F

from visiontune.errors import one_line
from visiontune.runs.files import temporary_path, write_bytes

MIN_SIDE = 160  # pixels; smaller images are enlarged, so that text fits
MAX_SIDE = 1600  # pixels; no side is enlarged beyond it
LONGEST_LABEL = 40  # characters in a figure
GOOD, BAD = (22, 120, 60), (185, 28, 28)


def enlarge(image: Tensor) -> Tensor:
    """``(1 or more, H, W)`` -> ``(3, F*H, F*W)``: repeat pixels until the short side has at least `MIN_SIDE`.

    F is smaller where the long side would be above `MAX_SIDE`.
    """
    factor = min(-(-MIN_SIDE // min(image.shape[-2:])), max(1, MAX_SIDE // max(image.shape[-2:])))
    enlarged = image[:3].expand(3, -1, -1)
    return enlarged if factor == 1 else enlarged.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def widen(image: Tensor) -> Tensor:
    """``(3, H, W)`` with white at the right if it has less than `MIN_SIDE` columns, so that text fits below."""
    return F.pad(image, [0, 0, max(0, MIN_SIDE - image.shape[-1]), 0], fill=255)


def caption(image: Tensor, lines: Sequence[str], bad: bool = False) -> Tensor:
    """Write lines of text under an image.

    Args:
        image: uint8 ``(1 or 3, H, W)``.
        bad: red background instead of green.

    Returns:
        uint8 ``(3, H', W)``, enlarged without smoothing if the short side is under `MIN_SIDE`.
    """
    enlarged = enlarge(image)
    if not lines:
        return enlarged
    enlarged = widen(enlarged)
    size = max(14, enlarged.shape[-1] // 22)
    font = ImageFont.load_default(size)
    strip = Image.new("RGB", (enlarged.shape[-1], (size + 6) * len(lines) + 4), BAD if bad else GOOD)
    draw = ImageDraw.Draw(strip)
    for i, line in enumerate(lines):
        draw.text((5, 2 + i * (size + 6)), one_line(line), fill="white", font=font)
    return torch.cat([enlarged, torch.from_numpy(np.array(strip)).permute(2, 0, 1)], 1)


def shrink(image: Tensor, side: int = 1000) -> Tensor:
    """``(3, H, W)`` with a longer side of at most `side` pixels."""
    scale = side / max(image.shape[-2:])
    size = [max(1, round(length * scale)) for length in image.shape[-2:]]
    return F.resize(image, size, antialias=True) if scale < 1 else image


def image_grid(images: Sequence[Tensor], width: int = 990, gap: int = 6) -> Tensor:
    """Images of any sizes on one white sheet: uint8 ``(3, H, W)`` with W about `width`.

    A row has four images, or two if they are wide (truth beside prediction). The longer side of an image fills its
    column; a row is as high as its highest image.
    """
    wide = sum(image.shape[-1] / image.shape[-2] for image in images) / len(images) > 1.25
    columns = min(2 if wide else 4, len(images))
    side = (width - gap) // (2 if wide else 4) - gap
    resized = []
    for image in images:
        scale = side / max(image.shape[-2:])
        size = [max(1, round(length * scale)) for length in image.shape[-2:]]
        resized.append(F.resize(image, size, antialias=True))
    rows = [resized[first : first + columns] for first in range(0, len(resized), columns)]
    heights = [max(image.shape[-2] for image in row) for row in rows]
    sheet = torch.full((3, sum(heights) + (len(rows) + 1) * gap, columns * (side + gap) + gap), 255, dtype=torch.uint8)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, image in enumerate(row):
            left = gap + column * (side + gap)
            sheet[:, top : top + image.shape[-2], left : left + image.shape[-1]] = image
        top += height + gap
    return sheet


def confusion_figure(matrix: Tensor, classes: Sequence[str]) -> Figure:
    """Counts of a confusion matrix ``(C, C)``, truth in rows, coloured by the share of each row."""
    counts = matrix.cpu().numpy()
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    n = len(classes)
    side = min(14.0, 2.5 + 0.45 * n)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    if n <= 40:
        names = [one_line(name, LONGEST_LABEL) for name in classes]
        # A `$` in a name is not the beginning of a formula.
        axes.set_xticks(range(n), names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(range(n), names, parse_math=False)
    if n <= 25:
        for i in range(n):
            for j in range(n):
                if counts[i, j]:
                    axes.text(
                        j,
                        i,
                        str(counts[i, j]),
                        ha="center",
                        va="center",
                        fontsize=8,
                        color="white" if shares[i, j] > 0.5 else "black",
                    )
    return figure


def save_figure(figure: Figure, path: Path, dpi: int = 110) -> None:
    """Write a figure as an image; characters that its font lacks are boxes, without matplotlib's warning for each."""
    fonts = logging.getLogger("matplotlib.font_manager")
    level = fonts.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        fonts.setLevel(logging.ERROR)
        try:
            with temporary_path(path) as temporary:
                figure.savefig(temporary, dpi=dpi)
        finally:
            fonts.setLevel(level)


def save_image(image: Tensor, path: Path) -> None:
    """Write an image, uint8 ``(1 or 3, H, W)``, as a PNG file."""
    write_bytes(path, encode_png(image.contiguous(), compression_level=4).numpy().tobytes())
