"""Detection and instances as YOLO (Ultralytics) has them: a YAML file, and a text file an image.

A line of it is `CLASS X Y WIDTH HEIGHT` (the middle of a box) or `CLASS X Y X Y X Y ...` (a polygon), as shares of the
image's width and height.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yaml import YAMLError, safe_load

from visiontune.data.boxes import BoxCheck
from visiontune.data.images import is_image
from visiontune.data.polygons import Objects, polygon
from visiontune.data.readers.folders import image_files, relative, root_folder
from visiontune.data.readers.objects import object_tasks
from visiontune.data.readers.split_lists import apply_split_lists
from visiontune.data.scan import read_image_sizes
from visiontune.data.schema import SPLITS, Sample, Source
from visiontune.errors import UserError, listed, some

NO_LABELS = {"classes.txt"}  # labelImg puts the names of the classes beside the labels


def read(
    root: str | Path | None, yaml: str = "data.yaml", splits: str | None = None, on_bad_box: str = "error"
) -> Source:
    """Read the set that a YAML file tells of; an empty or missing label file means no objects.

    Args:
        root: the data folder; by default that of the YAML file.
        yaml: file with `path`, `train`, `val`, `test` (each a folder, a list of images, or several) and `names`.
        splits: folder with `{train,val,test}.txt`, instead of the file's own splits.
        on_bad_box: what becomes of a box that cannot be: `error`, `clip` or `drop`.

    Raises:
        UserError: a file is missing or broken, a class is unknown, or a box cannot be.
    """
    root = root_folder(root if root else Path(yaml).expanduser().parent)
    file = root / Path(yaml).expanduser()
    if not file.is_file() and Path(yaml).is_file():
        file = Path(yaml).absolute()
    said = _load(file)
    names = _names(said, file)
    check = BoxCheck(on_bad_box)
    bases, notes = _bases(said, file, root)
    labels: dict[str, Path] = {}
    split_of: dict[str, str] = {}
    for split in SPLITS:
        for written in _pictures(said.get(split), bases, file, split):
            path = relative(follow(written), root)
            if split_of.setdefault(path, split) != split:
                raise UserError(f"{path} is in both {split_of[path]} and {split} of {file}. A sample has one split.")
            labels[path] = follow(_label_file(written))
    if not labels:
        raise UserError(f"{file}: no train and val: write folders of images, such as train: images/train")
    notes += _strangers(root, labels)
    sizes = read_image_sizes(root, labels)
    samples = []
    without = 0
    for path, label_file in labels.items():
        objects = Objects()
        lines: list[str] = []
        if label_file.is_file():
            _parse(label_file, relative(label_file, root), list(names), sizes[path], objects, lines, check)
        without += not label_file.is_file()
        samples.append(Sample(path, objects.stored(sizes[path], check, lines.__getitem__), split_of[path]))
    if without == len(samples):
        raise UserError(f"no image has a label file: that of {samples[0].path} would be {labels[samples[0].path]}")
    if without:
        notes.append(f"{without} images have no label file: they count as images without objects")
    schema, more = object_tasks(samples, list(names.values()))
    notes += check.notes() + more
    if splits:
        samples, more = apply_split_lists(samples, root, ".", root / splits)
        notes += more
    return Source(schema, sorted(samples, key=lambda sample: sample.path), notes, root)


def follow(path: Path) -> Path:
    """The path, through links that stand as text: a file holding nothing but where it leads.

    Git writes symbolic links so where the system has none, and so do some archives.
    """
    if path.exists():
        return path
    for link in reversed(path.parents):
        if link.is_file() and link.stat().st_size < 1000:
            return follow(link.parent / link.read_text(errors="replace").strip() / path.relative_to(link))
    return path


def _load(file: Path) -> dict[str, Any]:
    try:
        said = safe_load(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"data.yaml: the file {file} does not exist. Write data.yaml=FILE") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.yaml: {file} cannot be read ({error})") from error
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{file}{line}: broken YAML ({getattr(error, 'problem', None) or error})") from error
    if not isinstance(said, dict):
        raise UserError(f"{file}: no YOLO data set: it has no train, val and names")
    return said


def _names(said: Mapping[str, Any], file: Path) -> dict[int, str]:
    """id -> name, by id."""
    names = said.get("names")
    pairs = list(enumerate(names)) if isinstance(names, list) else list(names.items()) if names else []
    try:
        found = dict(sorted((int(identity), str(name)) for identity, name in pairs))
    except (TypeError, ValueError):
        found = {}
    if not found or len(set(found.values())) < len(pairs):
        raise UserError(
            f"{file}: names: write one for each class, such as names: [cat, dog] or names: {{0: cat, 1: dog}}"
        )
    if said.get("nc", len(found)) != len(found):
        raise UserError(f"{file}: nc is {said['nc']}, but there are {len(found)} names")
    return found


def _bases(said: Mapping[str, Any], file: Path, root: Path) -> tuple[list[Path], list[str]]:
    """The folders that train, val and test may be relative to, and a note where the written one is not there."""
    written = str(said.get("path") or ".")
    found = [base for base in dict.fromkeys((file.parent / written, root / written)) if base.is_dir()]
    if found:
        return found, []
    return [file.parent], [f"path {written} of {file} is not there: {file.parent} is taken in its place"]


def _pictures(entry: Any, bases: list[Path], file: Path, split: str) -> list[Path]:
    """The images of a split, as the YAML writes their paths; not yet followed through links."""
    found: list[Path] = []
    for text in map(str, entry if isinstance(entry, list) else [entry] if entry else []):
        # Roboflow writes ../train/images beside train/images.
        names = [text, text.removeprefix("../")]
        choices = [base / name for name in names for base in bases]
        place = next((choice for choice in choices if follow(choice).exists()), None)
        if place is None:
            raise UserError(f"{file}: {split}: {choices[0]} does not exist. Write a folder of images or a .txt of them")
        real = follow(place)
        found += (
            [place / path.relative_to(real) for path in image_files(real)] if real.is_dir() else _listed(real, bases)
        )
        if not found:
            raise UserError(f"{file}: {split}: {place} holds no images")
    return found


def _listed(file: Path, bases: list[Path]) -> list[Path]:
    """The images that a text file lists, relative to the set's folder or (with ./) to the file's own."""
    found, missing = [], []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if name := line.strip().replace("\\", "/"):
            folders = [file.parent, *bases] if name.startswith("./") else [*bases, file.parent]
            choices = [folder / name for folder in folders]
            place = next((choice for choice in choices if follow(choice).is_file()), None)
            found.append(place or choices[0])
            missing += [] if place else [f"{file}:{number}: {name}"]
    if missing:
        raise UserError(f"{len(missing)} listed images are not there:{listed(missing)}")
    return found


def _label_file(picture: Path) -> Path:
    """The last folder called images in the path is called labels; without one, labels are beside the images."""
    parts = list(picture.parts)
    places = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _strangers(root: Path, labels: Mapping[str, Path]) -> list[str]:
    """A note on label files without an image. Sets as they are handed around have some, so it is no error."""
    expected = {label.resolve() for label in labels.values()}
    picture_folders: dict[Path, set[Path]] = {}
    for path, label in labels.items():
        picture_folders.setdefault(label.parent, set()).add((root / path).parent)
    strangers: list[str] = []
    for folder, sources in picture_folders.items():
        there = [path for path in folder.glob("*.txt") if path.name not in NO_LABELS and path.resolve() not in expected]
        # A list may name some of the images alone.
        stems = {path.stem for source in sources for path in source.iterdir() if is_image(path)} if there else set()
        strangers += [relative(path, root) for path in there if path.stem not in stems]
    return [f"{len(strangers)} label files have no image: {some(sorted(strangers))}"] if strangers else []


def _parse(
    file: Path, name: str, ids: list[int], size: tuple[int, int], objects: Objects, lines: list[str], check: BoxCheck
) -> None:
    """Add what a label file says to `objects`, and the place of each to `lines`."""
    height, width = size
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{name}:{number}"
        try:
            identity, values = float(words[0]), [float(word) for word in words[1:]]
        except ValueError:
            raise UserError(f"{where}: {line.strip()[:60]!r} is no label: write CLASS X Y WIDTH HEIGHT") from None
        if identity not in ids:
            known = some([str(one) for one in ids], 12)
            raise UserError(f"{where}: class {words[0]} is none of the names' ids {known}")
        label = ids.index(int(identity))
        if len(values) == 4:
            x, y, w, h = values
            box = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
            objects.add(box, label)
        else:
            try:
                points = polygon(values)
            except ValueError as error:
                check.refuse(f"{where}: {error}")
                continue
            points[0::2] *= width
            points[1::2] *= height
            xs, ys = points[0::2], points[1::2]
            objects.add([xs.min(), ys.min(), xs.max(), ys.max()], label, segment=[points])
        lines.append(where)
