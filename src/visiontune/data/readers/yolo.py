"""Detection and instances in the YOLO (Ultralytics) format: a YAML file, and a label file per image.

A line of a label file is `CLASS X Y WIDTH HEIGHT` (X, Y is the center of the box) or `CLASS X Y X Y X Y ...` (a
polygon), as fractions of the image's width and height.
"""

from collections.abc import Sequence
from pathlib import Path

from visiontune.data.bad_files import BadFiles
from visiontune.data.boxes import BoxCheck
from visiontune.data.image_files import MAX_PIXELS
from visiontune.data.images import ImageDecoder
from visiontune.data.polygons import Objects
from visiontune.data.readers.folders import relative, root_folder
from visiontune.data.readers.objects import ClassSelection, object_tasks
from visiontune.data.readers.split_lists import apply_split_lists
from visiontune.data.readers.yolo_file import keypoint_shape, load, read_names
from visiontune.data.readers.yolo_images import LabelFiles, SplitImages, follow, shared_labels
from visiontune.data.readers.yolo_labels import LabelLines
from visiontune.data.scan import orientation_note, read_image_sizes
from visiontune.data.schema import Sample, Source
from visiontune.data.text import read_text
from visiontune.errors import UserError, pluralize, some


def read(
    root: str | Path | None,
    yaml: str = "data.yaml",
    splits: str | None = None,
    on_bad_box: str = "error",
    include: Sequence[str] | None = None,
    label_format: str = "auto",
    orientation: str = "apply",
    on_bad_image: str = "error",
    max_pixels: int | None = MAX_PIXELS,
) -> Source:
    """Read the data set that a YAML file describes; an empty or missing label file means no objects.

    Args:
        root: the data folder; by default that of the YAML file.
        yaml: file with `path`, `train`, `val`, `test` (each a folder, a list of images, or several) and `names`.
        splits: folder with `{train,val,test}.txt`, instead of the file's own splits.
        on_bad_box: what happens to invalid boxes: `error`, `clip` or `drop`.
        include: classes to use; objects of others are background.
        label_format: what lines with more than four numbers are, see `LabelLines`.
        orientation: whether boxes are in the frame after (`apply`) or before (`ignore`) the EXIF orientation.
        on_bad_image: what happens to images that cannot be read: `error`, or `skip` to leave them out.
        max_pixels: larger images cannot be read.

    Raises:
        UserError: a file is missing or broken, a class is unknown, or a box is invalid.
    """
    root = root_folder(root if root else Path(yaml).expanduser().parent)
    file = root / Path(yaml).expanduser()
    if not file.is_file() and Path(yaml).is_file():
        file = Path(yaml).absolute()
    config, notes = load(file)
    names, new_notes = read_names(config, file)
    notes += new_notes
    classes = ClassSelection(list(names.values()), include)
    label_lines = LabelLines(names, keypoint_shape(config, file), label_format)
    check, bad_files = BoxCheck(on_bad_box), BadFiles(on_bad_image)
    split_images, label_files = SplitImages(config, file, root), LabelFiles()
    labels: dict[str, Path] = {}
    image_splits: dict[str, str] = {}
    repeated: list[str] = []
    for split, image_path in split_images.read():
        path = relative(follow(image_path), root)
        if image_splits.setdefault(path, split) != split:
            raise UserError(f"{path} is in both {image_splits[path]} and {split} of {file}. A sample has one split.")
        repeated += [path] if path in labels else []
        labels[path] = label_files.find(image_path)
    if not labels:
        raise UserError(f"{file}: no train and val: write folders of images, such as train: images/train")
    notes += split_images.notes + label_files.unmatched(root, labels) + shared_labels(root, labels)
    if repeated:
        count = pluralize(len(repeated), "image is", "images are")
        notes.append(f"{count} listed again in the same split, and used once: {some(repeated)}")
    sizes = read_image_sizes(root, labels, ImageDecoder(orientation=orientation, max_pixels=max_pixels), bad_files)
    labels = {path: label for path, label in labels.items() if path in sizes}
    notes += bad_files.notes() + orientation_note(root, list(labels), orientation)
    samples = []
    missing_labels = 0
    for path, label_file in labels.items():
        objects, locations = Objects(), []
        name = relative(label_file, root)
        missing_labels += not label_file.is_file()
        lines = read_text(label_file)[0].splitlines() if label_file.is_file() else []
        for number, line in enumerate(lines, start=1):
            parsed = label_lines.parse(line, f"{name}:{number}")
            label = classes.label(parsed[0]) if parsed else None
            if parsed and label is not None:
                added = label_lines.add(label, parsed[1], sizes[path], objects, check, f"{name}:{number}")
                locations += [f"{name}:{number}"] if added else []
        samples.append(Sample(path, objects.stored(sizes[path], check, locations.__getitem__), image_splits[path]))
    if missing_labels == len(samples):
        raise UserError(f"no image has a label file: that of {samples[0].path} should be {labels[samples[0].path]}")
    if missing_labels:
        count = pluralize(missing_labels, "image has", "images have")
        notes.append(f"{count} no label file, and so no objects")
    notes += label_lines.notes(str(file))
    schema, new_notes = object_tasks(samples, classes.names)
    notes += check.notes() + classes.notes() + new_notes
    if splits:
        samples, new_notes = apply_split_lists(samples, root, ".", root / splits)
        notes += new_notes
    return Source(schema, sorted(samples, key=lambda sample: sample.path), notes, root)
