"""Every image is looked at once, and remembered outside the data."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from visiontune.data import verify as verify_module
from visiontune.data.schema import Sample
from visiontune.data.verify import verify
from visiontune.errors import UserError


def listing(root: Path) -> list[Sample]:
    return [Sample(path.relative_to(root).as_posix(), {}) for path in sorted(root.rglob("*.*"))]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is decoded, in order."""
    seen: list[Path] = []
    describe = verify_module._describe
    monkeypatch.setattr(
        verify_module, "_describe", lambda path, decoder: (seen.append(path), describe(path, decoder))[1]
    )
    return seen


def test_remembered_outside_the_data(photos: Path, own_cache: Path, looks: list[Path]) -> None:
    before = {path: path.stat().st_mtime_ns for path in photos.rglob("*")}
    first = verify(photos, listing(photos))
    assert len(looks) == 40 and len({sample.content for sample in first}) == 40
    assert verify(photos, listing(photos)) == first
    assert len(looks) == 40
    assert {path: path.stat().st_mtime_ns for path in photos.rglob("*")} == before
    assert [path for path in own_cache.rglob("*") if path.is_file()]


def test_a_changed_file_alone_is_looked_at_again(photos: Path, looks: list[Path], picture: Callable[..., Path]) -> None:
    first = {sample.path: sample.content for sample in verify(photos, listing(photos))}
    looks.clear()
    changed = picture(photos / "cat" / "cat3.png", seed=99)
    os.utime(changed, ns=(1, 1))
    second = {sample.path: sample.content for sample in verify(photos, listing(photos))}
    assert looks == [changed]
    assert [path for path in first if first[path] != second[path]] == ["cat/cat3.png"]


def test_a_broken_memory_means_looking_again(photos: Path, own_cache: Path, looks: list[Path]) -> None:
    verify(photos, listing(photos))
    for file in own_cache.rglob("*.jsonl"):
        file.write_text(file.read_text()[:20])
    verify(photos, listing(photos))
    assert len(looks) == 80


def test_all_bad_files_are_named_at_once(photos: Path) -> None:
    for i in range(12):
        (photos / "cat" / f"cat{i}.png").write_bytes(b"")
    with pytest.raises(UserError) as error:
        verify(photos, listing(photos))
    lines = str(error.value).splitlines()
    assert lines[0].startswith("12 images under") and lines[-1].strip() == "and 2 more"
    assert len(lines) == 12 and lines[1] == "  cat/cat0.png: the file is empty"


def test_a_bad_file_is_told_again_until_it_is_repaired(photos: Path, looks: list[Path]) -> None:
    (photos / "cat" / "cat0.png").write_text("no image")
    for _ in range(2):
        with pytest.raises(UserError, match=r"1 image .*\n  cat/cat0.png: not an image$"):
            verify(photos, listing(photos))
    assert len(looks) == 40 + 1


def test_modes(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = photos / "cat" / "cat0.png"
    whole.write_bytes(whole.read_bytes()[:60])  # the header is whole, the pixels are not
    assert verify(photos, listing(photos), "header")
    whole.write_text("no image")
    assert verify(photos, listing(photos), "off")
    with pytest.raises(UserError, match="not an image"):
        verify(photos, listing(photos), "header")
    monkeypatch.setattr(verify_module, "FULL_UP_TO", 39)
    with pytest.raises(UserError, match="not an image"):
        verify(photos, listing(photos), "auto")


def test_the_mode_does_not_change_the_content(photos: Path) -> None:
    full, header, off = (verify(photos, listing(photos), mode) for mode in ("full", "header", "off"))
    assert full == header == off and len({sample.content for sample in full}) == len(full)


def test_content_is_of_the_pixels_in_memory() -> None:
    import torch

    same = [Sample(str(i), {}, image=torch.full((1, 2, 2), 7, dtype=torch.uint8)) for i in range(2)]
    other = [Sample("2", {}, image=torch.full((1, 1, 4), 7, dtype=torch.uint8))]
    loaded = [Sample("3", {}, image=lambda: same[0].image)]
    a, b, c, d = (sample.content for sample in verify(None, same + other + loaded))
    assert a == b == d != c
