"""Videos: every frame comes back, in order, the right way up."""

import struct
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from visiontune.data.video import VideoWriter, frame_rate, frames, is_video
from visiontune.errors import UserError

TURNED = {  # the display matrix of a track header, 16.16 and 2.30 fixed point, with what it does to the image
    "clockwise": ((0, 1, -1, 0), -1),
    "upside down": ((-1, 0, 0, -1), 2),
    "counter-clockwise": ((0, -1, 1, 0), 1),
}


def ramp(count: int, height: int = 48, width: int = 64) -> list[Tensor]:
    """Frames that get brighter, with a bright corner at the top left."""
    pictures = []
    for i in range(count):
        picture = torch.full((3, height, width), 20 + 10 * i, dtype=torch.uint8)
        picture[:, : height // 2, : width // 2] = 235
        pictures.append(picture)
    return pictures


def written(path: Path, pictures: list[Tensor], rate: Fraction = Fraction(10)) -> Path:
    with VideoWriter(path, rate) as video:
        for picture in pictures:
            video.write(picture)
    return path


def test_frames_come_back(tmp_path: Path) -> None:
    pictures = ramp(15)
    path = written(tmp_path / "deep" / "film.mp4", pictures)
    assert is_video(path) and not is_video(tmp_path / "film.jpg") and frame_rate(path) == 10
    found = list(frames(path))
    assert len(found) == 15
    for picture, frame in zip(pictures, found, strict=True):
        assert frame.shape == (3, 48, 64) and frame.dtype == torch.uint8
        assert (frame.float() - picture.float()).abs().mean() < 4
    grey = next(frames(path, channels=1))
    assert grey.shape == (1, 48, 64) and abs(float(grey[0, -1, -1]) - 20) < 4


def test_odd_and_changing_sizes(tmp_path: Path) -> None:
    path = written(tmp_path / "film.mp4", [*ramp(1, 49, 65), *ramp(1, 30, 65), *ramp(1, 60, 80)])
    found = list(frames(path))
    assert [frame.shape for frame in found] == [(3, 48, 64)] * 3
    assert found[1][:, 34:].float().mean() < 4 < found[1][:, :26].float().mean()  # black below


@pytest.mark.parametrize("turn", list(TURNED))
def test_a_turned_recording(tmp_path: Path, turn: str) -> None:
    path = written(tmp_path / "film.mp4", ramp(3))
    (a, b, c, d), quarters = TURNED[turn]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # of the matrix, after version 0's times, number and length
    assert struct.unpack(">9i", data[at : at + 36]) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    frame = next(frames(path))
    assert (frame.float() - torch.rot90(ramp(1)[0], quarters, (1, 2)).float()).abs().mean() < 4


def test_the_extra_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visiontune.data.video.av", None)
    with pytest.raises(UserError, match=r"pip install 'visiontune\[video\]'"):
        frame_rate(tmp_path / "film.mp4")


@pytest.mark.parametrize("content", [b"", b"no video at all", None])
def test_no_video(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "film.mp4"
    if content is None:
        whole = written(path, ramp(15)).read_bytes()
        content = whole[: len(whole) // 2]
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"film\.mp4: cannot be read as a video"):
        frame_rate(path)
    with pytest.raises(UserError, match=r"film\.mp4: cannot be read as a video after 0 frames"):
        list(frames(path))
