"""Detection and instances in the YOLO (Ultralytics) format: a YAML file, and a label file per image.

A line of a label file is `CLASS X Y WIDTH HEIGHT` (X, Y is the center of the box) or `CLASS X Y X Y X Y ...` (a
polygon), as fractions of the image's width and height.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yaml import YAMLError, safe_load

from visiontune.data.boxes import BoxCheck
from visiontune.data.images import is_image
from visiontune.data.polygons import Objects, polygon
from visiontune.data.readers.folders import relative, root_folder
from visiontune.data.readers.objects import object_tasks
from visiontune.data.readers.split_lists import apply_split_lists
from visiontune.data.scan import read_image_sizes
from visiontune.data.schema import SPLITS, Sample, Source
from visiontune.data.walk import is_hidden, walk
from visiontune.errors import UserError, listed, some

NO_LABELS = {"classes.txt"}  # labelImg writes the class names beside the labels


def read(
    root: str | Path | None, yaml: str = "data.yaml", splits: str | None = None, on_bad_box: str = "error"
) -> Source:
    """Read the data set that a YAML file describes; an empty or missing label file means no objects.

    Args:
        root: the data folder; by default that of the YAML file.
        yaml: file with `path`, `train`, `val`, `test` (each a folder, a list of images, or several) and `names`.
        splits: folder with `{train,val,test}.txt`, instead of the file's own splits.
        on_bad_box: what happens to invalid boxes: `error`, `clip` or `drop`.

    Raises:
        UserError: a file is missing or broken, a class is unknown, or a box is invalid.
    """
    root = root_folder(root if root else Path(yaml).expanduser().parent)
    file = root / Path(yaml).expanduser()
    if not file.is_file() and Path(yaml).is_file():
        file = Path(yaml).absolute()
    config = _load(file)
    names = _names(config, file)
    check = BoxCheck(on_bad_box)
    bases, notes = _bases(config, file, root)
    labels: dict[str, Path] = {}
    image_splits: dict[str, str] = {}
    for split in SPLITS:
        for image_path in _split_images(config.get(split), bases, file, split, notes):
            path = relative(follow(image_path), root)
            if image_splits.setdefault(path, split) != split:
                raise UserError(
                    f"{path} is in both {image_splits[path]} and {split} of {file}. A sample has one split."
                )
            labels[path] = follow(_label_file(image_path))
    if not labels:
        raise UserError(f"{file}: no train and val: write folders of images, such as train: images/train")
    notes += _unmatched_labels(root, labels)
    sizes = read_image_sizes(root, labels)
    samples = []
    missing_labels = 0
    for path, label_file in labels.items():
        objects = Objects()
        lines: list[str] = []
        if label_file.is_file():
            _parse(label_file, relative(label_file, root), list(names), sizes[path], objects, lines, check)
        missing_labels += not label_file.is_file()
        samples.append(Sample(path, objects.stored(sizes[path], check, lines.__getitem__), image_splits[path]))
    if missing_labels == len(samples):
        raise UserError(f"no image has a label file: that of {samples[0].path} should be {labels[samples[0].path]}")
    if missing_labels:
        notes.append(f"{missing_labels} images have no label file: they are used as images without objects")
    schema, new_notes = object_tasks(samples, list(names.values()))
    notes += check.notes() + new_notes
    if splits:
        samples, new_notes = apply_split_lists(samples, root, ".", root / splits)
        notes += new_notes
    return Source(schema, sorted(samples, key=lambda sample: sample.path), notes, root)


def follow(path: Path) -> Path:
    """Resolve symbolic links that are stored as text files with the path of their target.

    Git and some archives write such files on systems without symbolic links.
    """
    if path.exists():
        return path
    for link in reversed(path.parents):
        if link.is_file() and link.stat().st_size < 1000:
            return follow(link.parent / link.read_text(errors="replace").strip() / path.relative_to(link))
    return path


def _load(file: Path) -> dict[str, Any]:
    try:
        config = safe_load(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"data.yaml: the file {file} does not exist. Write data.yaml=FILE") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.yaml: {file} cannot be read ({error})") from error
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{file}{line}: broken YAML ({getattr(error, 'problem', None) or error})") from error
    if not isinstance(config, dict):
        raise UserError(f"{file}: not a YOLO data set: expected the keys train, val and names")
    return config


def _names(config: Mapping[str, Any], file: Path) -> dict[int, str]:
    """id -> name, sorted by id."""
    names = config.get("names")
    names_by_key = dict(enumerate(names)) if isinstance(names, list) else names
    pairs = list(names_by_key.items()) if isinstance(names_by_key, Mapping) else []
    try:
        names_by_id = dict(sorted((int(identity), str(name)) for identity, name in pairs))
    except (TypeError, ValueError):
        names_by_id = {}
    if not names_by_id or len(set(names_by_id.values())) < len(pairs):
        raise UserError(
            f"{file}: names: write a name for each class, such as names: [cat, dog] or names: {{0: cat, 1: dog}}"
        )
    if config.get("nc", len(names_by_id)) != len(names_by_id):
        raise UserError(f"{file}: nc is {config['nc']}, but there are {len(names_by_id)} names")
    return names_by_id


def _bases(config: Mapping[str, Any], file: Path, root: Path) -> tuple[list[Path], list[str]]:
    """The folders that train, val and test may be relative to, and a note if `path` does not exist."""
    folder = str(config.get("path") or ".")
    folders = [base for base in dict.fromkeys((file.parent / folder, root / folder)) if base.is_dir()]
    if folders:
        return folders, []
    return [file.parent], [f"path {folder} of {file} does not exist: {file.parent} is used instead"]


def _split_images(entry: Any, bases: list[Path], file: Path, split: str, notes: list[str]) -> list[Path]:
    """The images of a split, with paths as in the YAML file; links in text files are not resolved. Adds notes."""
    images: list[Path] = []
    for entry_path in map(str, entry if isinstance(entry, list) else [entry] if entry else []):
        # Roboflow writes ../train/images beside train/images.
        names = [entry_path, entry_path.removeprefix("../")]
        candidates = [base / name for name in names for base in bases]
        written_path = next((candidate for candidate in candidates if follow(candidate).exists()), None)
        if written_path is None:
            raise UserError(
                f"{file}: {split}: {candidates[0]} does not exist. Write a folder of images or a .txt of them"
            )
        target = follow(written_path)
        if target.is_dir():
            result = walk(target)
            notes += result.notes
            entry_images = [written_path / path.relative_to(target) for path in result.images]
        else:
            entry_images = _read_list(target, bases)
        if not entry_images:
            raise UserError(f"{file}: {split}: {written_path} has no images")
        images += entry_images
    return images


def _read_list(file: Path, bases: list[Path]) -> list[Path]:
    """The images in a text file; their paths are relative to the data set or, with ./, to the text file."""
    images, missing = [], []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        if name := line.strip().replace("\\", "/"):
            folders = [file.parent, *bases] if name.startswith("./") else [*bases, file.parent]
            candidates = [folder / name for folder in folders]
            existing_path = next((candidate for candidate in candidates if follow(candidate).is_file()), None)
            images.append(existing_path or candidates[0])
            missing += [] if existing_path else [f"{file}:{number}: {name}"]
    if missing:
        raise UserError(f"{len(missing)} listed images do not exist:{listed(missing)}")
    return images


def _label_file(image: Path) -> Path:
    """The label file of an image: in `labels` in place of the last folder `images`, else beside the image."""
    parts = list(image.parts)
    places = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _unmatched_labels(root: Path, labels: Mapping[str, Path]) -> list[str]:
    """A note on label files without an image; not an error, since published data sets have some."""
    expected = {label.resolve() for label in labels.values()}
    image_folders: dict[Path, set[Path]] = {}
    for path, label in labels.items():
        image_folders.setdefault(label.parent, set()).add((root / path).parent)
    unmatched: list[str] = []
    for folder, folders in image_folders.items():
        files = [
            path
            for path in folder.glob("*.txt")
            if not is_hidden(path.name) and path.name not in NO_LABELS and path.resolve() not in expected
        ]
        # A list may contain only some of the images in a folder.
        stems = (
            {path.stem for image_folder in folders for path in image_folder.iterdir() if is_image(path)}
            if files
            else set()
        )
        unmatched += [relative(path, root) for path in files if path.stem not in stems]
    return [f"{len(unmatched)} label files have no image: {some(sorted(unmatched))}"] if unmatched else []


def _parse(
    file: Path, name: str, ids: list[int], size: tuple[int, int], objects: Objects, lines: list[str], check: BoxCheck
) -> None:
    """Add the objects of a label file to `objects`, and their locations (FILE:LINE) to `lines`."""
    height, width = size
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        location = f"{name}:{number}"
        try:
            identity, values = float(fields[0]), [float(word) for word in fields[1:]]
        except ValueError:
            raise UserError(f"{location}: {line.strip()[:60]!r} is not a label: write CLASS X Y WIDTH HEIGHT") from None
        if identity not in ids:
            known = some([str(class_id) for class_id in ids], 12)
            raise UserError(f"{location}: unknown class {fields[0]}, the ids of names are {known}")
        label = ids.index(int(identity))
        if len(values) == 4:
            x, y, w, h = values
            box = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
            objects.add(box, label)
        else:
            try:
                points = polygon(values)
            except ValueError as error:
                check.refuse(f"{location}: {error}")
                continue
            points[0::2] *= width
            points[1::2] *= height
            xs, ys = points[0::2], points[1::2]
            objects.add([xs.min(), ys.min(), xs.max(), ys.max()], label, segment=[points])
        lines.append(location)
