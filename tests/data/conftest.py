"""Generated images and the configs that users compose."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose
from PIL import Image

from visiontune.config.compose import initialized
from visiontune.data import VisionData, build_data


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What verification remembers goes to a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "visiontune"


@pytest.fixture
def picture() -> Callable[..., Path]:
    """`picture(path, seed)` writes a smooth random colour image, different for each seed."""

    def write(path: Path, seed: int = 0, size: tuple[int, int] = (24, 32)) -> Path:
        small = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize(size[::-1]).save(path)
        return path

    return write


@pytest.fixture
def photos(tmp_path: Path, picture: Callable[..., Path]) -> Path:
    """20 cats, 14 dogs and 6 newts, as `photos/CLASS/N.png`."""
    seed = 0
    for name, count in (("cat", 20), ("dog", 14), ("newt", 6)):
        for i in range(count):
            picture(tmp_path / "photos" / name / f"{name}{i}.png", seed)
            seed += 1
    return tmp_path / "photos"


@pytest.fixture
def make() -> Callable[..., VisionData]:
    """`make("data=image_folder", "data.root=...")`: from the shipped YAML, as the commands do."""

    def run(*overrides: Any) -> VisionData:
        with initialized(None):
            # The groups alone: the other keys of a run are no business of these tests.
            config = compose(overrides=[f"+{o}" if o.split("=")[0] in ("data", "augment") else o for o in overrides])
        return build_data(config.data, config.get("augment"), seed=3)

    return run
