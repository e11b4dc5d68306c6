"""Videos: frames out of a file, and images into one.

PyAV does it, whose wheels bring FFmpeg along. It is an extra, since they hold libraries under the GPL as well.
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
from visiontune.errors import UserError

try:
    import av
except ImportError:
    av = None  # type: ignore[assignment]

SUFFIXES = frozenset([".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"])


def is_video(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def frames(path: Path, channels: int = 3) -> Iterator[Tensor]:
    """Every frame in order, ``(channels, H, W)`` uint8, the right way up; one is in memory at a time.

    Raises:
        UserError: no video, or broken at some frame; the message names the file.
    """
    count = 0
    _check_installed()
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                picture = torch.from_numpy(frame.to_ndarray(format="rgb24"))
                picture = torch.rot90(picture, frame.rotation // 90)  # both count counter-clockwise
                yield with_channels(picture.permute(2, 0, 1), channels)
                count += 1
    except (av.FFmpegError, IndexError) as error:  # IndexError: it has no video stream, perhaps sound alone
        raise UserError(f"{path}: cannot be read as a video after {count} frames. Repair or convert it.") from error
    if not count:
        raise UserError(f"{path}: a video without a frame")


def frame_rate(path: Path) -> Fraction:
    """Frames a second, on average; 25 where the file does not say. Raises UserError as `frames` does."""
    _check_installed()
    try:
        with av.open(str(path)) as container:
            return container.streams.video[0].average_rate or Fraction(25)
    except (av.FFmpegError, IndexError) as error:
        raise UserError(f"{path}: cannot be read as a video. Repair or convert it.") from error


def _check_installed() -> None:
    if av is None:
        raise UserError("videos need PyAV, an extra of this package: pip install 'visiontune[video]'")


class VideoWriter:
    """Images one after another as an MP4 file; a context manager.

    The first image gives the size (an odd side loses its last pixel: the codec wants even ones); later ones are cut
    or filled with black at the right and below.
    """

    def __init__(self, path: Path, rate: Fraction) -> None:
        _check_installed()
        path.parent.mkdir(parents=True, exist_ok=True)
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self.container = av.open(str(path), "w")
        self.stream = cast(av.VideoStream, self.container.add_stream(codec, rate=rate))
        self.stream.pix_fmt = "yuv420p"  # what every player shows
        self.size: tuple[int, int] | None = None

    def write(self, picture: Tensor) -> None:
        """
        Args:
            image: uint8 ``(3, H, W)``.
        """
        if self.size is None:
            height, width = (side // 2 * 2 for side in picture.shape[-2:])
            self.size = (height, width)
            self.stream.height, self.stream.width = self.size
        missing = [max(0, side - have) for side, have in zip(self.size, picture.shape[-2:], strict=True)]
        full = F.pad(picture, [0, 0, missing[1], missing[0]])[:, : self.size[0], : self.size[1]]
        frame = av.VideoFrame.from_ndarray(full.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
        self.container.mux(self.stream.encode(frame))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.size is not None:
            self.container.mux(self.stream.encode())
        self.container.close()
