"""Whatever a file holds becomes the right pixels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from visiontune.data.images import ImageDecoder, load_image, with_channels
from visiontune.data.scan import orientation_note, read_image_sizes
from visiontune.errors import UserError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters(size: int = 32) -> np.ndarray:
    """Red and green above blue and white: every orientation is another image."""
    half = np.array([[RED, GREEN], [BLUE, WHITE]], dtype=np.uint8)
    return half.repeat(size // 2, axis=0).repeat(size, axis=1)  # (size, 2 size, 3)


def corners(image: torch.Tensor) -> list[tuple[int, ...]]:
    """The colours of the four quarters, row by row, to the nearest of 0 and 255."""
    _, h, w = image.shape
    places = [(y, x) for y in (h // 4, 3 * h // 4) for x in (w // 4, 3 * w // 4)]
    return [tuple(255 if value > 127 else 0 for value in image[:, y, x].tolist()) for y, x in places]


# What the viewer should see, for a file whose stored pixels are `quarters()` (EXIF 2.3, table of orientations).
UPRIGHT = {
    1: [RED, GREEN, BLUE, WHITE],
    2: [GREEN, RED, WHITE, BLUE],
    3: [WHITE, BLUE, GREEN, RED],
    4: [BLUE, WHITE, RED, GREEN],
    5: [RED, BLUE, GREEN, WHITE],
    6: [BLUE, RED, WHITE, GREEN],
    7: [WHITE, GREEN, BLUE, RED],
    8: [GREEN, WHITE, RED, BLUE],
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(quarters()).save(path, exif=exif, quality=95)
    image = load_image(path)
    assert corners(image) == UPRIGHT[orientation]
    assert image.shape == ((3, 32, 64) if orientation < 5 else (3, 64, 32))
    assert read_image_sizes(tmp_path, [path.name])[path.name] == image.shape[1:]
    stored = read_image_sizes(tmp_path, [path.name], ImageDecoder(orientation="ignore"))[path.name]
    assert stored == (32, 64)
    assert len(orientation_note(tmp_path, [path.name])) == (orientation > 1)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_gives_pillows_pixels(tmp_path: Path, picture: Callable[..., Path], mode: str) -> None:
    Image.open(picture(tmp_path / "a.png", 5)).convert(mode).save(tmp_path / "a.jpg")
    reference = np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB"))
    assert np.array_equal(load_image(tmp_path / "a.jpg").permute(1, 2, 0).numpy(), reference)


def test_cmyk_jpeg_has_its_colours(tmp_path: Path) -> None:
    Image.fromarray(quarters()).convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    assert corners(load_image(tmp_path / "print.jpg")) == UPRIGHT[1]


def test_palette_with_transparency_lies_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png", transparency=0)
    assert load_image(tmp_path / "palette.png")[:, 0].T.tolist() == [[255, 255, 255], [10, 20, 30]]
    image.save(tmp_path / "opaque.png")
    assert load_image(tmp_path / "opaque.png")[:, 0].T.tolist() == [[0, 0, 0], [10, 20, 30]]


def test_alpha_lies_over_white(tmp_path: Path) -> None:
    pixels = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    assert load_image(tmp_path / "alpha.png")[:, 0].T.tolist() == [[200, 0, 0], [255, 255, 255], [204, 204, 204]]
    assert load_image(tmp_path / "alpha.png", 4)[:, 0].T.tolist() == pixels[0].tolist()
    Image.fromarray(np.array([[[90, 255], [90, 0]]], dtype=np.uint8)).save(tmp_path / "la.png")
    assert load_image(tmp_path / "la.png", 1)[0, 0].tolist() == [90, 255]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 257, 257 * 100, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    assert load_image(tmp_path / f"deep.{suffix}", 1)[0, 0].tolist() == [0, 1, 100, 255]
    assert load_image(tmp_path / f"deep.{suffix}", 3)[:, 0, 2].tolist() == [100, 100, 100]


def test_one_bit_and_grey(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    assert load_image(tmp_path / "bits.png")[:, 0, 0].tolist() == [255, 255, 255]
    Image.fromarray(np.array([[7, 8]], dtype=np.uint8)).save(tmp_path / "grey.bmp")
    assert load_image(tmp_path / "grey.bmp")[:, 0, 1].tolist() == [8, 8, 8]


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, BLUE)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "two.gif")[:, 0, 0].tolist() == list(RED)


def test_four_channels_are_not_made_up(tmp_path: Path, picture: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"a\.png.*3 bands \(RGB\), data\.channels=4 needs four"):
        load_image(picture(tmp_path / "a.png"), 4)


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match="no defined range"):
        load_image(tmp_path / "float.tif")


def test_channels_of_pictures_in_memory() -> None:
    color = torch.tensor([100, 200, 50], dtype=torch.uint8).view(3, 1, 1)
    assert with_channels(color, 1).item() == round(0.299 * 100 + 0.587 * 200 + 0.114 * 50)
    assert with_channels(with_channels(color, 1), 3).shape == (3, 1, 1)
    with pytest.raises(UserError, match="3 channels"):
        with_channels(color, 4)
