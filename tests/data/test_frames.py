"""From the network's input back to the image."""

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from visiontune.data.frames import Frame


def test_boxes_of_a_letterboxed_picture_come_back_and_are_clipped() -> None:
    frame = Frame(size=(300, 600), inside=(25, 0, 50, 100))  # 600 x 300 in 100 x 100: shrunk to 100 x 50 and centred
    boxes = torch.tensor([[10.0, 30.0, 50.0, 75.0], [-5.0, 0.0, 200.0, 100.0]])
    assert torch.equal(frame.boxes(boxes), torch.tensor([[60.0, 30.0, 300.0, 300.0], [0.0, 0.0, 600.0, 300.0]]))
    assert frame.boxes(torch.zeros(0, 4)).shape == (0, 4)


def test_the_whole_picture_is_left_as_it_is() -> None:
    frame, maps = Frame.whole(7, 9), torch.rand(2, 7, 9)
    assert torch.equal(frame.pixels(maps), maps)
    assert torch.equal(frame.boxes(torch.tensor([[1.0, 2.0, 3.0, 4.0]])), torch.tensor([[1.0, 2.0, 3.0, 4.0]]))


@pytest.mark.parametrize("inside", [(8, 0, 16, 32), (0, 0, 32, 32), (-4, -8, 40, 48)])
def test_pixels_come_back_where_they_were(inside: tuple[int, int, int, int]) -> None:
    """A smooth ramp survives: put into the input by torchvision, brought back by the frame."""
    height, width = 64, 96
    ramp = torch.linspace(0, 1, width).expand(1, height, width) * torch.linspace(0.5, 1, height).view(1, -1, 1)
    top, left, h, w = inside
    small = F.resize(ramp, [h, w], antialias=True)
    canvas = F.crop(F.pad(small, [max(left, 0), max(top, 0)] * 2), max(-top, 0), max(-left, 0), 32, 32)
    back = Frame((height, width), inside).pixels(canvas)
    assert back.shape == ramp.shape
    # Only what the input shows can come back; compare inside it, away from the edges.
    rows = slice(int(height * max(-top, 0) / h) + 4, int(height * (max(-top, 0) + min(32, h)) / h) - 4)
    columns = slice(int(width * max(-left, 0) / w) + 6, int(width * (max(-left, 0) + min(32, w)) / w) - 6)
    assert float((back - ramp)[:, rows, columns].abs().max()) < 0.02
