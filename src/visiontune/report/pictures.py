"""Pictures of results: captions on images, grids, the confusion matrix."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as F

MIN_SIDE = 160  # pixels: text needs room, so smaller pictures are enlarged
GOOD, BAD = (22, 120, 60), (185, 28, 28)


def caption(image: Tensor, lines: Sequence[str], bad: bool = False) -> Tensor:
    """Lines of text under a picture, on red where it is wrong, on green where it is not.

    Args:
        image: uint8 ``(1 or 3, H, W)``.
    Returns:
        uint8 ``(3, H', W)``, enlarged without smoothing where the short side is under `MIN_SIDE`.
    """
    factor = -(-MIN_SIDE // min(image.shape[-2:]))
    picture = image[:3].expand(3, -1, -1).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    if not lines:
        return picture
    size = max(14, picture.shape[-1] // 22)
    font = ImageFont.load_default(size)
    strip = Image.new("RGB", (picture.shape[-1], (size + 6) * len(lines) + 4), BAD if bad else GOOD)
    draw = ImageDraw.Draw(strip)
    for i, line in enumerate(lines):
        draw.text((5, 2 + i * (size + 6)), line, fill="white", font=font)
    return torch.cat([picture, torch.from_numpy(np.array(strip)).permute(2, 0, 1)], 1)


def grid(pictures: Sequence[Tensor], columns: int = 4, side: int = 240, gap: int = 6) -> Tensor:
    """Pictures of any sizes on one white sheet, each fitted into a square cell: uint8 ``(3, H, W)``."""
    rows = -(-len(pictures) // columns)
    columns = min(columns, len(pictures))
    sheet = torch.full((3, rows * (side + gap) + gap, columns * (side + gap) + gap), 255, dtype=torch.uint8)
    for i, picture in enumerate(pictures):
        scale = side / max(picture.shape[-2:])
        height, width = (max(1, round(length * scale)) for length in picture.shape[-2:])
        small = F.resize(picture, [height, width], antialias=True)
        top, left = gap + (i // columns) * (side + gap), gap + (i % columns) * (side + gap)
        sheet[:, top : top + height, left : left + width] = small
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
        axes.set_xticks(range(n), classes, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(n), classes)
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
