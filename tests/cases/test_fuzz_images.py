"""5,000 damaged image files: each is decoded or refused with its name; nothing hangs or fills the memory."""

import io
import struct
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from running import Command

from visiontune.data.images import ImageDecoder, describe_image, read_header
from visiontune.errors import UserError
from visiontune.runs import RunDirectory
from visiontune.training.memory import forget_peak, peak_mb

COUNT = 5000
LIMIT_SECONDS = 10
Random = np.random.Generator


def originals() -> dict[str, bytes]:
    """Valid files of all formats, with metadata."""
    rng = np.random.default_rng(0)
    color = Image.fromarray(rng.integers(0, 255, (40, 56, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    exif.get_ifd(0x8769)[0x9003] = "2026:11:28 00:00:00"
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "words " * 50, zip=True)
    frames = [Image.new("RGB", (20, 20), (i, 0, 0)) for i in (9, 99)]
    mpo = {"save_all": True, "append_images": [frames[1].copy()]}  # an image remembers how it was saved before
    several = {"save_all": True, "append_images": frames[1:]}
    files = [
        ("jpg", color, "JPEG", {"exif": exif, "icc_profile": bytes(300)}),
        ("jpg", color, "JPEG", {"progressive": True, "comment": b"c"}),
        ("jpg", color.convert("CMYK"), "JPEG", {}),
        ("jpg", frames[0], "MPO", mpo),
        ("png", color, "PNG", {"exif": exif, "pnginfo": text, "icc_profile": bytes(300)}),
        ("png", color.quantize(16), "PNG", {"transparency": 3}),
        ("png", Image.fromarray(rng.integers(0, 9999, (30, 30), dtype=np.uint16)), "PNG", {}),
        ("png", frames[0], "PNG", several),
        ("gif", color, "GIF", {}),
        ("gif", frames[0], "GIF", several),
        ("tif", color, "TIFF", {"exif": exif}),
        ("tif", color, "TIFF", {"compression": "tiff_lzw"}),
        ("tif", color, "TIFF", {"compression": "jpeg"}),
        ("tif", Image.fromarray(rng.random((20, 20)).astype(np.float32)), "TIFF", {}),
        ("tif", frames[0], "TIFF", several),
        ("webp", color, "WEBP", {"exif": exif}),
        ("webp", color.convert("RGBA"), "WEBP", {"lossless": True}),
        ("avif", color, "AVIF", {"exif": exif}),
        ("bmp", color, "BMP", {}),
        ("ppm", color, "PPM", {}),
        ("pgm", color.convert("L"), "PPM", {}),
    ]
    result = {}
    for number, (suffix, image, kind, options) in enumerate(files):
        buffer = io.BytesIO()
        image.copy().save(buffer, kind, **options)
        result[f"{number:02d}.{suffix}"] = buffer.getvalue()
    return result


def flip(data: bytearray, rng: Random, end: int) -> None:
    for _ in range(rng.integers(1, 9)):
        data[rng.integers(0, min(end, len(data)))] = rng.integers(0, 256)


def damage(data: bytes, others: list[bytes], rng: Random) -> bytes:
    """One of: bytes changed at the start or anywhere, cut, spliced, a part repeated, a number replaced."""
    new, kind = bytearray(data), rng.integers(0, 7)
    at, to = sorted(int(place) for place in rng.integers(0, len(data), 2))
    if kind == 0:
        flip(new, rng, 64)
    elif kind == 1:
        flip(new, rng, 600)
    elif kind == 2:
        flip(new, rng, len(new))
    elif kind == 3:
        new = new[:at]
    elif kind == 4:
        other = others[rng.integers(0, len(others))]
        new = new[:at] + other[min(at, len(other)) :]
    elif kind == 5:
        new = new[:to] + new[at:]
    else:
        size = int(rng.choice([2, 4]))
        value = int(rng.choice([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
        place = int(rng.integers(0, min(400, max(1, len(new) - 4))))
        new[place : place + size] = value.to_bytes(4, "big")[-size:]
    return bytes(new)


def bombs() -> dict[str, bytes]:
    """Small legal files that are large in memory."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    compressor = zlib.compressobj(9)
    row = bytes(1 + 3 * 30_000)
    pixels = b"".join([*(compressor.compress(row) for _ in range(7000)), compressor.flush()])
    start = b"\x89PNG\r\n\x1a\n"
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 7000, 8, 2, 0, 0, 0))
    small = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    text = zlib.compress(bytes(300_000_000))
    end = chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    files = {
        "pixels.png": start + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b""),
        "text.png": start + small + chunk(b"zTXt", b"parameters\0\0" + text) + end,
        "profile.png": start + small + chunk(b"iCCP", b"name\0\0" + text) + end,
    }
    for name, kind, size in (("a.webp", "WEBP", (16_000, 5000)), ("a.gif", "GIF", (20_000, 10_000))):
        buffer = io.BytesIO()
        Image.new("L", size).save(buffer, kind)
        files[name] = buffer.getvalue()
    return files


@pytest.mark.slow
def test_damaged_images_are_decoded_or_refused(tmp_path: Path, command: Command, run: RunDirectory) -> None:
    rng = np.random.default_rng(16)
    files = originals()
    names, contents = [*files], [*files.values()]
    decoder, outcomes, refused = ImageDecoder(), Counter[str](), []
    forget_peak()
    before = peak_mb()
    cases = {f"{i:04d}-{names[i % len(names)]}": damage(contents[i % len(names)], contents, rng) for i in range(COUNT)}
    for name, data in (files | bombs() | cases).items():
        path = tmp_path / name
        path.write_bytes(data)
        start = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                image = decoder(path)
            except UserError as error:
                refused.append(name)
                message = str(error)
                with pytest.raises((OSError, ValueError)):
                    describe_image(path, decoder)
                assert str(path) in message and "\n" not in message
            else:
                height, width, orientation, _ = read_header(path)
                assert image.shape == ((3, width, height) if orientation >= 5 else (3, height, width))
                assert describe_image(data, decoder).keys() <= {"several", "values"}
        assert time.monotonic() - start < LIMIT_SECONDS, name
        outcomes["refused" if refused and refused[-1] == name else "decoded"] += 1
        if name not in refused[-20:]:
            path.unlink()
    assert {*refused} & {*files} == {"13.tif"}  # floats need data.grey_range
    assert {*refused} & {*bombs()} == {"pixels.png", "a.webp", "a.gif"}
    assert outcomes["decoded"] > 1000 and outcomes["refused"] > 1000, outcomes
    assert peak_mb() - before < 1400  # a process that predicts has 600 MB before it reads an image
    folder = tmp_path / "some"
    folder.mkdir()
    for name in refused[-20:]:
        (tmp_path / name).rename(folder / name)
    Image.new("RGB", (9, 9)).save(folder / "good.png")
    outcome = command("predict", f"run={run.path}", f"input={folder}", f"output={tmp_path / 'out'}")
    assert outcome.code == 1 and outcome.err.startswith("error: 20 files cannot be read")
    assert "Traceback" not in outcome.err + outcome.out
