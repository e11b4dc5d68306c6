"""The original files of the Pascal VOC challenge: located where torchvision unpacks them, or downloaded."""

from pathlib import Path

from torchvision import datasets
from torchvision.datasets.voc import DATASET_YEAR_DICT

from visiontune.errors import UserError

YEARS = [year for year in DATASET_YEAR_DICT if year.isdigit()]


def challenge_folder(root: str | Path | None, year: str | int, images: str, allow_download: bool = True) -> Path:
    """The folder that contains `images`: the root itself, or that of the year under it, such as VOCdevkit/VOC2012.

    Raises:
        UserError: the year is unknown, or its files neither exist nor can be downloaded.
    """
    year = str(year)
    if year not in YEARS:
        raise UserError(f"data.download={year}: write a year of the challenge, {', '.join(sorted(YEARS))}")
    if not root:
        raise UserError("data.root is not set: write the folder of VOCdevkit, such as data.root=~/data")
    root = Path(root).expanduser().absolute()
    source = DATASET_YEAR_DICT[year]
    folder = root / source["base_dir"]
    if (root / images).is_dir():
        return root
    if folder.is_dir():
        return folder
    if not allow_download:
        raise UserError(
            f"{folder} does not exist: unpack {source['url']} in {root}, name the folder of the data with "
            "data_root=DIR, or write trust=true to download it"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        datasets.VOCDetection(root, year, "train", download=True)
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(
            f"{folder} does not exist, and could not be downloaded ({error}). Unpack {source['url']} in {root}, or "
            f"write data.root=DIR with the folder that has {source['base_dir']} in it."
        ) from error
    return folder
