"""Separate the metadata of an image file from its pixels.

Pillow parses all metadata when it opens a file, and refuses an image whose text, color profile or EXIF is large or
damaged. The pixels need none of it but the orientation.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from mmap import ACCESS_COPY, mmap
from typing import BinaryIO, NamedTuple

MAX_METADATA = 1 << 20  # bytes of a text or of EXIF in which the orientation is searched
MAX_SEGMENT = 1 << 17  # bytes, more than a segment of JPEG can have
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION = 0x0112
# Exif, GPS, interoperability, XMP, IPTC, Photoshop, ICC
TIFF_METADATA = (0x8769, 0x8825, 0xA005, 0x02BC, 0x83BB, 0x8649, 0x8773)
INTEGERS = {1: "B", 3: "H", 4: "I"}  # EXIF's number of an integer type -> its letter in `struct`


class Pixels(NamedTuple):
    """A file without its metadata.

    Attributes:
        stream: what a decoder reads.
        orientation: EXIF orientation, 1 to 8; None for a format whose metadata is still in `stream`.
        several: whether the file holds further images.
    """

    stream: BinaryIO
    orientation: int | None = None
    several: bool = False


def strip(file: BinaryIO, header: bool = False) -> Pixels:
    """Remove the metadata of a PNG, JPEG or TIFF file; other formats are returned as they are.

    Args:
        header: return only the beginning of the file, enough to know the size of the image.
    """
    start = file.read(8)
    if start == PNG_SIGNATURE:
        return _strip_png(file, header)
    if start.startswith(b"\xff\xd8\xff"):
        return _strip_jpeg(file, header)
    file.seek(0)
    if start[:4] in TIFF_SIGNATURES:
        return _strip_tiff(file, header)
    return Pixels(file if header else BytesIO(file.read()))


def exif_orientation(exif: bytes) -> int | None:
    """The orientation (1 to 8) in EXIF data; 1 if it is not valid, None without one. Other tags are not parsed."""
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    values = [value for _, tag, value in _directory(exif) if tag == ORIENTATION]
    return (values[0] if 1 <= values[0] <= 8 else 1) if values else None


def xmp_orientation(xmp: bytes | str) -> int | None:
    """As `exif_orientation`, for XMP."""
    text = xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp
    match = re.search(rb'tiff:Orientation(?:="|>)([1-8])', text)
    return int(match[1]) if match else None


def raw_profile_orientation(profile: bytes | str) -> int | None:
    """As `exif_orientation`, for EXIF as ImageMagick writes it into PNG: hexadecimal digits after three lines."""
    text = profile.decode("latin-1") if isinstance(profile, bytes) else profile
    digits = re.sub("[^0-9a-fA-F]", "", "".join(text.split("\n")[3:]))
    return exif_orientation(bytes.fromhex(digits[: len(digits) // 2 * 2]))


def _directory(tiff: bytes | mmap | bytearray) -> Iterator[tuple[int, int, int]]:
    """(position, tag, value) of each entry in the first directory of TIFF data; the value of no integer is 0."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(tiff[:2]))
    if order is None or len(tiff) < 16:
        return
    big = struct.unpack_from(f"{order}H", tiff, 2)[0] == 43  # BigTIFF
    (offset,) = struct.unpack_from(f"{order}Q", tiff, 8) if big else struct.unpack_from(f"{order}I", tiff, 4)
    count_type, count_size, entry_size, value_offset = ("Q", 8, 20, 12) if big else ("H", 2, 12, 8)
    if offset + count_size > len(tiff):
        return
    (count,) = struct.unpack_from(f"{order}{count_type}", tiff, offset)
    for position in range(offset + count_size, offset + count_size + min(count, 65535) * entry_size, entry_size):
        if position + entry_size > len(tiff):
            return
        tag, kind = struct.unpack_from(f"{order}HH", tiff, position)
        letter = INTEGERS.get(kind)
        value = struct.unpack_from(f"{order}{letter}", tiff, position + value_offset)[0] if letter else 0
        yield position, tag, value


def _strip_tiff(file: BinaryIO, header: bool) -> Pixels:
    """Give metadata an unknown type, which decoders skip, and make the orientation 1: Pillow would apply it."""
    # In a private mapping, only the pages that are read are loaded.
    mapped = header and not isinstance(file, BytesIO)
    data = mmap(file.fileno(), 0, access=ACCESS_COPY) if mapped else bytearray(file.read())
    order = "<" if data[:1] == b"I" else ">"
    orientation = 1
    for position, tag, value in list(_directory(data)):
        if tag == ORIENTATION:
            orientation = value if 1 <= value <= 8 else 1
        if tag == ORIENTATION or tag in TIFF_METADATA:
            struct.pack_into(f"{order}H", data, position + 2, 0)
    return Pixels(data if isinstance(data, mmap) else BytesIO(data), orientation)  # type: ignore[arg-type]


def _strip_png(file: BinaryIO, header: bool) -> Pixels:
    size, position = file.seek(0, 2), len(PNG_SIGNATURE)
    spans, orientation, several, pixels_end = [(0, position)], None, False, 0
    while position < size:
        file.seek(position)
        start = file.read(8)
        if len(start) < 8 or not re.fullmatch(rb"\w{4}", start[4:]):
            spans.append((position, size))  # damaged: the decoder decides
            break
        length, kind = struct.unpack(">I4s", start)
        end = position + length + 12
        if kind in PNG_CHUNKS:
            pixels_end = pixels_end or (position + 8 if header and kind == b"IDAT" else 0)
            if not pixels_end or position < pixels_end:
                spans.append((position, pixels_end or end))
        elif orientation is None and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            orientation = _png_orientation(kind, file.read(min(length, MAX_METADATA)))
        elif kind == b"acTL":
            several = file.read(4) > b"\0\0\0\1"
        position = end
        if kind == b"IEND":
            break
    return Pixels(_join(file, spans), orientation or 1, several)


def _png_orientation(kind: bytes, chunk: bytes) -> int | None:
    if kind == b"eXIf":
        return exif_orientation(chunk)
    key, _, text = chunk.partition(b"\0")
    if key not in (b"Raw profile type exif", b"Raw profile type APP1", b"XML:com.adobe.xmp"):
        return None
    compressed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] == b"\1")
    if kind == b"iTXt":
        text = text[2:].split(b"\0", 2)[-1]
    elif kind == b"zTXt":
        text = text[1:]
    if compressed:
        try:
            text = zlib.decompressobj().decompress(text, MAX_METADATA)
        except zlib.error:
            return None
    return xmp_orientation(text) if key.startswith(b"XML") else raw_profile_orientation(text)


def _strip_jpeg(file: BinaryIO, header: bool) -> Pixels:
    size, position = file.seek(0, 2), 2
    spans, exif, xmp, several = [(0, 2)], b"", b"", False
    while position < size:
        file.seek(position)
        start = file.read(4)
        marker, length = struct.unpack(">HH", start) if len(start) == 4 else (0, 0)
        if marker == 0xFFFF:  # a fill byte
            position += 1
            continue
        if marker < 0xFFC0 or 0xFFD0 <= marker <= 0xFFDA or length < 2:  # pixels, or damaged: the decoder decides
            spans.append((position, position + MAX_SEGMENT if header and marker == 0xFFDA else size))
            break
        end = position + 2 + length
        if marker == 0xFFE1 and not (exif and xmp):
            segment = file.read(length - 2)
            if segment.startswith(b"Exif\0\0"):
                exif = exif or segment
            elif segment.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
                xmp = xmp or segment
        elif marker == 0xFFE2:
            several = several or file.read(4) == b"MPF\0"
        # The decoder reads JFIF (APP0) and Adobe (APP14): whether the colors are YCbCr. Shorter ones it ignores.
        needed = {0xFFE0: length >= 16, 0xFFEE: length >= 14}.get(marker, not 0xFFE0 <= marker <= 0xFFEF)
        if needed and marker != 0xFFFE:  # a comment
            spans.append((position, end))
        position = end
    orientation = exif_orientation(exif) or xmp_orientation(xmp) or 1
    return Pixels(_join(file, spans), orientation, several)


def _join(file: BinaryIO, spans: list[tuple[int, int]]) -> BinaryIO:
    """The bytes between each start and end."""
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    parts = []
    for start, end in merged:
        file.seek(start)
        parts.append(file.read(end - start))
    return BytesIO(b"".join(parts))
