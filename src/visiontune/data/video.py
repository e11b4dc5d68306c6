"""Read frames from videos, and write images as videos.

It uses PyAV, whose wheels contain FFmpeg. PyAV is an optional extra, since its wheels also contain GPL libraries.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from visiontune.data.images import with_channels
from visiontune.errors import UserError, printable

try:
    import av
except ImportError:
    av = None  # type: ignore[assignment]

# LookupError: there is no video stream, only sound.
PROBLEMS: tuple[type[Exception], ...] = (OSError, ValueError, LookupError, RuntimeError, MemoryError, EOFError)
if av is not None:
    PROBLEMS += (av.FFmpegError,)

SUFFIXES = frozenset([".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"])


def is_video(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def frames(path: Path, channels: int = 3, max_pixels: int | None = None) -> Iterator[Tensor]:
    """All frames in order, ``(channels, H, W)`` uint8, upright; only one is in memory at a time.

    Raises:
        UserError: the file is not a video, or a frame is corrupt; the message has the path.
    """
    count = 0
    _check_installed()
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                if max_pixels is not None and frame.width * frame.height > max_pixels:
                    raise UserError(
                        f"{printable(path)}: its frames have {frame.width} x {frame.height} pixels; "
                        f"data.max_pixels={max_pixels} is the limit"
                    )
                image = torch.from_numpy(frame.to_ndarray(format="rgb24"))
                image = torch.rot90(image, frame.rotation // 90)  # both count counter-clockwise
                yield with_channels(image.permute(2, 0, 1), channels)
                count += 1
    except PROBLEMS as error:
        raise UserError(
            f"{printable(path)}: cannot be read as a video after {count} frames. Repair or convert it."
        ) from error
    if not count:
        raise UserError(f"{printable(path)}: the video has no frames")


def frame_rate(path: Path) -> Fraction:
    """Average frames per second; 25 if the file does not have it. Raises UserError like `frames`."""
    _check_installed()
    try:
        with av.open(str(path)) as container:
            return container.streams.video[0].average_rate or Fraction(25)
    except PROBLEMS as error:
        raise UserError(f"{printable(path)}: cannot be read as a video. Repair or convert it.") from error


def _check_installed() -> None:
    if av is None:
        raise UserError("videos need PyAV, an extra of this package: pip install 'visiontune[video]'")


class VideoWriter:
    """Writes images to an MP4 file; a context manager.

    The first image defines the size (rounded down to even numbers, which the codec needs); later images are cropped or
    padded with black at the right and bottom.
    """

    def __init__(self, path: Path, rate: Fraction) -> None:
        _check_installed()
        path.parent.mkdir(parents=True, exist_ok=True)
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self.container = av.open(str(path), "w")
        self.stream = cast(av.VideoStream, self.container.add_stream(codec, rate=rate))
        self.stream.pix_fmt = "yuv420p"  # supported by every player
        self.size: tuple[int, int] | None = None

    def write(self, image: Tensor) -> None:
        """Append a frame, uint8 ``(3, H, W)``."""
        if self.size is None:
            height, width = (side // 2 * 2 for side in image.shape[-2:])
            self.size = (height, width)
            self.stream.height, self.stream.width = self.size
        missing = [max(0, side - actual) for side, actual in zip(self.size, image.shape[-2:], strict=True)]
        padded = F.pad(image, [0, 0, missing[1], missing[0]])[:, : self.size[0], : self.size[1]]
        frame = av.VideoFrame.from_ndarray(padded.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
        self.container.mux(self.stream.encode(frame))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.size is not None:
            self.container.mux(self.stream.encode())
        self.container.close()
