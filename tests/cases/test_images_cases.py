"""Image files as cameras, phones, microscopes and web sites write them."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from inputs import write_folders, write_image
from PIL import Image, PngImagePlugin
from running import Outcome

from visiontune.data.image_files import MAX_PIXELS, open_image
from visiontune.data.images import ImageDecoder, describe_image, load_image, load_images, read_header
from visiontune.data.mask_files import pixel_codes
from visiontune.errors import UserError, printable

FORMATS = ("jpg", "png", "webp", "tif", "avif")


def read_image_size(path: Path) -> tuple[int, int]:
    """(H, W) of the upright image."""
    height, width, orientation, _ = read_header(path)
    return (width, height) if orientation >= 5 else (height, width)


def exif(orientation: object = 6, order: str = "<") -> bytes:
    """EXIF of a maker's name and an orientation."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    entries = struct.pack(f"{order}HHI", 0x010F, 2, 4) + b"Co\0\0"
    if isinstance(orientation, int):
        entries += struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    else:  # a text under the tag of a number
        entries += struct.pack(f"{order}HHI", 0x0112, 2, 2) + b"6\0\0\0"
    return b"Exif\0\0" + mark + struct.pack(f"{order}IH", 8, 2) + entries + bytes(4)


def encode(image: Image.Image, suffix: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()), **options)
    return file.getvalue()


def ramp(size: tuple[int, int] = (32, 16)) -> Image.Image:
    """Bright on the right, so that a turned image differs."""
    return Image.fromarray(np.linspace(0, 255, size[0]).astype(np.uint8)[None].repeat(size[1], 0)).convert("RGB")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(png: bytes, new: bytes, at_end: bool = False) -> bytes:
    """A PNG with another chunk after its header or before its end."""
    place = len(png) - 12 if at_end else 33
    return png[:place] + new + png[place:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.replace(b"\x01\x0f\x00\x02", b"\x01\x01\x00\x02", 1),  # a text under the tag of the height
        lambda data: data.replace(b"\x01\x0f\x00\x02\x00\x00\x00\x04", b"\x01\x0f\x00\x02\xff\xff\xff\xff", 1),
        lambda data: data.replace(b"\x01\x0f\x00\x02", b"\x87\x69\x00\x04", 1),  # a directory that is none
        lambda data: data.replace(b"\x01\x0f\x00\x02", b"\x01\x0f\x00\x63", 1),  # an unknown type
    ],
)
def test_broken_exif_keeps_the_orientation(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(damage(encode(ramp(), "jpg", exif=exif(6, ">"))))  # type: ignore[operator]
    image = load_image(path)
    assert image.shape == (3, 32, 16) and image[0, 0].max() < 10 and image[0, -1].min() > 245
    assert read_image_size(path) == (32, 16)
    assert ImageDecoder(orientation="ignore")(path).shape == (3, 16, 32)
    assert read_header(path) == read_header(path.read_bytes()) == (16, 32, 6, 512)


@pytest.mark.parametrize(
    ("suffix", "orientation"),
    [(suffix, orientation) for suffix in FORMATS for orientation in (0, 1, 3, 8, 9)]
    + [(suffix, "text") for suffix in ("jpg", "png", "webp")],
)
def test_orientations_of_every_format(tmp_path: Path, suffix: str, orientation: int | str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(encode(ramp(), suffix, exif=exif(orientation)))
    image = load_image(path)
    turned = orientation == 8
    assert image.shape == ((3, 32, 16) if turned else (3, 16, 32)) and read_image_size(path) == image.shape[1:]
    brightest = {3: image[0, :, 0], 8: image[0, 0]}.get(orientation, image[0, :, -1])  # type: ignore[call-overload]
    assert brightest.float().mean() > 230
    stored = ImageDecoder(orientation="ignore")(path)
    assert stored.shape == (3, 16, 32) and stored[0, :, -1].float().mean() > 230
    assert np.array_equal(pixel_codes(path, colours=True) & 255, image[2].numpy())


def test_truncated_and_misplaced_exif(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    for data in (exif()[:20], b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense" * 3):
        path.write_bytes(encode(ramp(), "jpg", exif=data))
        assert load_image(path).shape == (3, 16, 32) == (3, *read_image_size(path))
    png = encode(ramp(), "png")
    xmp = b'<x tiff:Orientation="6"/>'
    profile = b"\nexif\n" + b"%8d\n" % len(exif()) + exif().hex().encode() + b"\n"
    for new, at_end in [
        (chunk(b"eXIf", exif()[6:]), False),
        (chunk(b"eXIf", exif()[6:]), True),
        (chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp), False),
        (chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)), True),
        (chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)), False),
    ]:
        (tmp_path / "a.png").write_bytes(with_chunk(png, new, at_end))
        assert load_image(tmp_path / "a.png").shape == (3, 32, 16), new[4:30]
        assert read_image_size(tmp_path / "a.png") == (32, 16)


def test_large_and_damaged_metadata(tmp_path: Path) -> None:
    """No text, profile or comment is expanded, so none is too large; the pixels stay."""
    path, expected = tmp_path / "a.png", torch.from_numpy(np.array(ramp())).permute(2, 0, 1)
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "x" * 2_000_000, zip=True)
    png = encode(ramp(), "png")
    bomb = zlib.compress(bytes(20_000_000))
    for data in [
        encode(ramp(), "png", pnginfo=text),
        encode(ramp(), "png", icc_profile=bytes(3_000_000)),
        with_chunk(png, b"".join(chunk(b"tEXt", b"k%d\0" % i + bytes(10**6)) for i in range(3)), True),
        with_chunk(png, chunk(b"iCCP", b"name\0\0" + bomb)),
        with_chunk(png, chunk(b"zTXt", b"Raw profile type exif\0\0" + bomb)),
        with_chunk(png, chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb)),
        with_chunk(png, chunk(b"gAMA", b"\0")),  # too short
        with_chunk(png, chunk(b"tEXt", b"a\0b")[:-1] + b"?"),  # a wrong checksum
    ]:
        path.write_bytes(data)
        assert torch.equal(load_image(path), expected)
    jpeg = encode(ramp(), "jpg", icc_profile=bytes(2_000_000), comment=b"c" * 60_000)
    short = jpeg[:2] + b"\xff\xe0\0\x07JFIF\0" + jpeg[20:]  # a header that ends too early
    for data in (jpeg, encode(ramp(), "tif", icc_profile=bytes(2_000_000)), short):
        (tmp_path / "b").write_bytes(data)
        assert load_image(tmp_path / "b").shape == (3, 16, 32) == (3, *read_image_size(tmp_path / "b"))


def blank_png(width: int, height: int, mode: int = 2, depth: int = 8) -> bytes:
    """A legal PNG of zeros."""
    row = bytes(1 + width * depth * {0: 1, 2: 3, 6: 4}[mode] // 8)
    compressor = zlib.compressobj(9)
    data = b"".join([*(compressor.compress(row) for _ in range(height)), compressor.flush()])
    header = struct.pack(">IIBBBBB", width, height, depth, mode, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(blank_png(2000, 1000, depth=1, mode=0))
    with pytest.raises(UserError) as error:
        ImageDecoder(max_pixels=1_999_999)(path)
    assert str(error.value) == (
        f"{path}: cannot be read as an image (it has 2000 x 1000 pixels; data.max_pixels=1999999 is the limit. Write "
        "data.max_pixels=2000000 to read it). Repair or remove it."
    )
    with pytest.raises(ValueError, match="2000 x 1000"):
        pixel_codes(path, colours=False, decoder=ImageDecoder(max_pixels=1_999_999))
    assert ImageDecoder(max_pixels=2_000_000)(path).shape == (3, 1000, 2000)
    assert pixel_codes(path, colours=False).shape == (1000, 2000)
    assert Image.MAX_IMAGE_PIXELS is None and MAX_PIXELS > 2 * 89_000_000  # Pillow neither warns nor refuses below it
    # Sizes that only the header has; nothing is decoded, nor allocated.
    png = blank_png(8, 8)
    huge = struct.pack(">II", 60_000, 40_000)
    files = {"huge.png": png[:16] + huge + png[24:29] + struct.pack(">I", zlib.crc32(b"IHDR" + huge + png[24:29]))}
    files["huge.png"] += png[33:]
    gif = bytearray(encode(Image.new("P", (8, 8)), "gif"))
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    files["huge.gif"] = bytes(gif)
    bmp = bytearray(encode(ramp(), "bmp"))
    bmp[18:26] = struct.pack("<ii", 100_000, 100_000)
    files["huge.bmp"] = bytes(bmp)
    files["huge.ppm"] = b"P6 99999 99999 255\n" + bytes(99)
    tiff = encode(ramp(), "tif")
    width = struct.pack("<HHII", 256, 4, 1, 32), struct.pack("<HHII", 256, 4, 1, 10**9)
    files["huge.tif"] = tiff.replace(*width)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=rf"{name}: .* pixels.*; data.max_pixels=180000000 is the limit"):
            load_image(tmp_path / name)


def test_formats_that_need_more_memory_count_more(tmp_path: Path) -> None:
    weights = {}
    for suffix, options in [("jpg", {}), ("jpg", {"progressive": True}), ("webp", {}), ("avif", {}), ("png", {})]:
        (tmp_path / f"a.{suffix}").write_bytes(encode(ramp(), suffix, **options))
        with open_image(tmp_path / f"a.{suffix}", header=True) as file:
            weights[(suffix, *options)] = file.weight / (32 * 16)
    assert list(weights.values()) == [1, 2, 3, 2, 1]
    with pytest.raises(UserError, match=r"its decoder needs 3 times the memory of other images; data.max_pixels=1000"):
        ImageDecoder(max_pixels=1000)(tmp_path / "a.webp")


def test_deep_grey_has_a_range(tmp_path: Path) -> None:
    dark = np.arange(0, 140, dtype=np.uint16).reshape(10, 14)
    Image.fromarray(dark).save(tmp_path / "dark.png")
    assert load_image(tmp_path / "dark.png", 1).unique().tolist() == [0, 1]
    image = ImageDecoder(1, grey_range=(39, 139))(tmp_path / "dark.png").flatten()
    assert image[:40].unique().tolist() == [0] and image[139] == 255 and image[89] == 128
    assert describe_image(tmp_path / "dark.png", ImageDecoder()) == {"values": [0, 139]}
    values = np.array([[-1.0, 0.25, 0.5, np.nan, np.inf]], dtype=np.float32)
    Image.fromarray(values).save(tmp_path / "height.tif")
    with pytest.raises(UserError, match=r"its values, -1 to 0.5, have no defined range.* data.grey_range=\[-1,0.5\]"):
        load_image(tmp_path / "height.tif")
    assert ImageDecoder(1, grey_range=(0, 0.5))(tmp_path / "height.tif").flatten().tolist() == [0, 128, 255, 0, 255]
    Image.fromarray(np.array([[-5, 0, 100_000]], dtype=np.int32)).save(tmp_path / "deep.tif")
    for source in (tmp_path / "deep.tif", (tmp_path / "deep.tif").read_bytes()):
        with pytest.raises(ValueError, match=r"data.grey_range=\[-5,100000\]"):
            describe_image(source, ImageDecoder())
    assert ImageDecoder(1, grey_range=(0, 1e5))(tmp_path / "deep.tif").flatten().tolist() == [0, 0, 255]
    with pytest.raises(UserError, match=r"data.grey_range=\[5,5\]: expected two ascending numbers"):
        ImageDecoder.from_config({"grey_range": [5, 5]})
    write_image(tmp_path / "color.png")
    assert torch.equal(ImageDecoder(grey_range=(0, 10))(tmp_path / "color.png"), load_image(tmp_path / "color.png"))


def test_pages_and_frames(tmp_path: Path) -> None:
    """The first is used, and the description says that there are more."""
    first, second = Image.new("RGB", (8, 8), (255, 255, 255)), Image.new("RGB", (8, 8))
    for suffix in ("gif", "tif", "webp", "png", "avif", "mpo"):
        path = tmp_path / f"a.{suffix}"
        first.save(path, save_all=True, append_images=[second])
        assert load_image(path).float().mean() > 250
        assert describe_image(path, ImageDecoder()) == {"several": True}
        first.save(path)
        assert describe_image(path, ImageDecoder()) == {}


def test_files_that_are_no_images_have_one_message(tmp_path: Path) -> None:
    contents = {
        "empty.png": (b"", "the file is empty"),
        "page.jpg": (b"<!DOCTYPE html>", "not an image"),
        "cut.jpg": (encode(ramp((200, 200)), "jpg")[:1500], "truncated"),
        "cut.png": (encode(ramp((200, 200)), "png")[:200], "truncated"),
        "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    }
    for name, (data, text) in contents.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=rf"{name}: cannot be read as an image \({text}\)"):
            load_image(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match="it is not a file"):
        load_image(tmp_path / "folder.png")
    with pytest.raises(UserError, match="no such file"):
        load_image(tmp_path / "missing.png")
    good = write_image(tmp_path / "good.png")
    results = list(load_images([good, tmp_path / "cut.png", good]))
    assert [isinstance(result, UserError) for result in results] == [False, True, False]
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    with pytest.raises(UserError, match=r"/caf\\xe9.png: "):
        load_image(tmp_path / name)
    assert printable("Café \udce9 \ud800") == "Café \\udce9 \\ud800" and printable("Vögel") == "Vögel"


def test_notes_of_the_plan(tmp_path: Path, plan: Callable[..., Outcome]) -> None:
    root = write_folders(tmp_path / "photos")
    values = np.arange(139 - 35, 140, dtype=np.uint16).reshape(6, 6)
    Image.fromarray(values).save(root / "cat" / "00.png")
    Image.fromarray(values - 4).save(root / "cat" / "01.png")
    (root / "cat" / "02.png").unlink()
    pages = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(2)]
    pages[0].save(root / "cat" / "02.tif", save_all=True, append_images=pages[1:])
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "x" * 2_000_000, zip=True)
    Image.open(root / "dog" / "00.png").save(root / "dog" / "00.png", pnginfo=text)
    overrides = ["data=image_folder", f"data.root={root}"]
    text = " ".join(plan(*overrides).out.split())
    assert "images 17 3 4" in text
    assert (
        "2 images are grey with more than 8 bits, with values from 100 to 139; 0 and 65535 become black and white; to "
        "change it, write data.grey_range=[100,139]: cat/00.png, cat/01.png"
    ) in text
    assert "1 image has several pages or frames, of which the first is used: cat/02.tif" in text
    text = " ".join(plan(*overrides, "data.grey_range=[0,139]").out.split())
    assert "data.grey_range=[0,139] become black and white: cat/00.png" in text
    message = plan(*overrides, "data.max_pixels=3000").message
    assert message.count("it has 64 x 48 pixels; data.max_pixels=3000 is the limit") == 10
