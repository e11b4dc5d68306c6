"""Keys of the groups data and augment."""

from collections.abc import Mapping
from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import Field

from visiontune.config.schema.types import (
    Count,
    Flag,
    Fraction,
    Int,
    Node,
    NotNegative,
    Number,
    PathOrSplits,
    PositiveFraction,
    Range,
    Section,
    Size,
    Text,
    Texts,
    key,
)

WORKERS = Annotated[Int, Ge(0), Le(1024)]


class SplitRatio(Section):
    train: PositiveFraction = key("a fraction above 0 and at most 1", 0.7)
    val: Fraction = key("a fraction from 0 to 1", 0.15)
    test: Fraction = key("a fraction from 0 to 1", 0.15)


class Data(Section):
    image_size: Size = key("a number of pixels up to 16384, or [HEIGHT,WIDTH]", 224)
    resize: Literal["squash", "crop", "letterbox"] = key("squash, crop or letterbox", "crop")
    channels: Literal[1, 3, 4] = key("3 (color), 1 (grey) or 4 (four bands as stored)", 3)
    orientation: Literal["apply", "ignore"] = key("apply or ignore", "ignore")
    grey_range: Range | None = key("two ascending numbers, or null", "[0,4095]")
    max_pixels: Count | None = key("a number of pixels, 1 or more, or null", 400000000)
    batch_size: Count = key("a whole number, 1 or more", 32)
    num_workers: WORKERS | Literal["auto"] = key("a number of data-loader workers from 0 to 1024, or auto", 4)
    cache: Literal["none", "memory"] = key("none or memory", "memory")
    split_ratio: SplitRatio | None = key("a fraction for each split", "{train: 0.7, val: 0.15, test: 0.15}")
    stratify: Flag = key("true or false", "false")
    folds: Annotated[Int, Ge(2)] | None = key("a number of folds, 2 or more, or null", 5)
    fold: Annotated[Int, Ge(0)] | None = key("the number of a fold, 0 or more, or null", 0)
    per_class: Count | None = key("a number of images, 1 or more, or null", 16)
    limit_train: Count | None = key("a number of images, 1 or more, or null", 4000)
    labelled: PositiveFraction = key("a fraction above 0 and at most 1", 0.67)
    balanced: Flag = key("true or false", "true")
    verify: Literal["auto", "full", "header", "off"] = key("auto, full, header or off", "full")
    on_bad_image: Literal["error", "skip"] = key("error or skip", "skip")
    reader: Node | None = key(
        "a mapping with _target_, the path of a function", "{_target_: visiontune.data.readers.csv_table.read}"
    )
    root: Text | None = key("a folder", "photos")
    name: Text | None = key("the name of a data set", "CIFAR10")
    table: Text | None = key("a CSV file", "table.csv")
    path: Text = key("a column", "image_id")
    label: Text | None = key("a column", "species")
    labels: Texts | None = key("a list of columns", "[striped,broken]")
    targets: Texts | None = key("a list of columns", "[width,weight]")
    classes: Texts | Mapping[str, Texts] | None = key(
        "a list of names (in YAML with quotes: 'on', 'yes', '1.10'), or a list for each task", "[cat,dog]"
    )
    include: Texts | None = key("a list of names, or null", "[cat,dog]")
    label_format: Literal["auto", "polygon", "keypoints"] = key("auto, polygon or keypoints", "polygon")
    images: PathOrSplits | None = key("a folder, or a folder for each split", "images")
    masks: PathOrSplits | None = key("a folder, or a folder for each split", "masks")
    annotations: PathOrSplits | None = key("a file or folder, or one for each split", "annotations")
    splits: Text | None = key("a folder, or null", "splits")
    yaml: Text | None = key("a YAML file", "data.yaml")
    suffix: Text | None = key("the end of a mask's name", "_mask")
    group_pattern: Text | None = key("a regular expression, or null", r"(patient\d+)_")


class Augment(Section):
    crop: Range | None = key("two fractions, or null", "[0.5,1.0]")
    ratio: Range | None = key("two numbers, or null", "[0.75,1.33]")
    resize_range: Range | None = key("two numbers, or null", "[0.5,1.5]")
    flip: Flag = key("true or false", "true")
    vertical_flip: Flag = key("true or false", "true")
    rotate: NotNegative = key("a number of degrees, 0 or more", 15)
    scale: Range | None = key("two numbers, or null", "[0.9,1.1]")
    fill: Annotated[Int, Ge(0), Le(255)] = key("a grey value from 0 to 255", 114)
    min_visible: Fraction = key("a fraction from 0 to 1", 0.2)
    color: NotNegative = key("a number, 0 or more", 0.2)
    hue: Annotated[Number, Field(ge=0, le=0.5)] = key("a number from 0 to 0.5", 0.05)
    grey: Fraction = key("a fraction from 0 to 1", 0.1)
    blur: Fraction = key("a fraction from 0 to 1", 0.1)
    erase: Fraction = key("a fraction from 0 to 1", 0.25)
    auto: Literal["trivial", "rand", "augmix"] | None = key("trivial, rand, augmix or null", "trivial")
    mixup: NotNegative = key("a number, 0 or more", 0.2)
    cutmix: NotNegative = key("a number, 0 or more", 1.0)
