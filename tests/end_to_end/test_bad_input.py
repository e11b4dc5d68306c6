"""Wrong input on the command line: exit code 2 and one message, before anything is started."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from running import Command

Change = Callable[[Path], Any]


@pytest.fixture
def photos(tiles: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiles, tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def refused(command: Command, small: list[str], tmp_path: Path) -> Callable[..., str]:
    """`refused("seed=-1")`: the message of `train`; checks that no run was started."""

    def run(*overrides: object) -> str:
        message = command("train", *small, f"paths.logs={tmp_path / 'logs'}", *overrides).message
        assert not (tmp_path / "logs").exists()
        return message

    return run


def damage(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def truncate(path: Path) -> None:
    Image.radial_gradient("L").resize((300, 300)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:900])


# ---- the data


def test_missing_root(refused: Callable[..., str], tmp_path: Path) -> None:
    assert refused("data=image_folder", f"data.root={tmp_path / 'none'}") == (
        f"data.root: the folder {tmp_path / 'none'} does not exist. Write data.root=DIR with an existing one."
    )
    unset = "data.root is not set: say where the images are, such as data.root=~/photos"
    assert refused("data=image_folder") == unset


def test_empty_folder(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refused("data=image_folder", f"data.root={tmp_path / 'empty'}").startswith(
        f"{tmp_path / 'empty'} has no images. Expected one folder per class"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "cloud").mkdir(), "class 'cloud' has no images in {root}. Add some, or remove"),
        (
            lambda root: truncate(root / "sky" / "x.jpg"),
            "1 image under {root} cannot be read; repair or remove, or write data.on_bad_image=skip:\n  sky/x.jpg: ",
        ),
        (
            lambda root: damage(root / "sky" / "x.jpg", b"not an image at all"),
            "1 image under {root} cannot be read; repair or remove, or write data.on_bad_image=skip:\n  sky/x.jpg: ",
        ),
        (
            lambda root: damage(root / "sky" / "x.jpg", b""),
            "1 image under {root} cannot be read; repair or remove, or write data.on_bad_image=skip:\n  sky/x.jpg: ",
        ),
    ],
    ids=["class without images", "truncated", "text named jpg", "zero bytes"],
)
def test_folders_and_files(photos: Path, refused: Callable[..., str], change: Change, message: str) -> None:
    change(photos)
    answer = refused("data=image_folder", f"data.root={photos}")
    assert answer.startswith(message.format(root=photos)) and len(answer) > len(message.format(root=photos))


def test_a_class_in_val_that_train_lacks(photos: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    root = tmp_path / "given"
    for split, names in (("train", ("brick", "grass")), ("val", ("brick", "grass", "sky"))):
        for name in names:
            shutil.copytree(photos / name, root / split / name)
    assert refused("data=image_folder", f"data.root={root}") == (
        "class 'sky' is in val but not in train: nothing to learn it from. Add it to train, or remove the class."
    )


def test_more_samples_a_class_than_there_are(photos: Path, refused: Callable[..., str]) -> None:
    message = refused("data=image_folder", f"data.root={photos}", "data.per_class=15")
    assert message.startswith("data.per_class=15") and "14" in message and "brick" in message


def test_files_that_are_no_images_are_left_out_and_listed(photos: Path, command: Command, small: list[str]) -> None:
    for name in ("Thumbs.db", ".DS_Store"):
        (photos / "sky" / name).write_bytes(b"\0")
    outcome = command("plan", *small, "data=image_folder", f"data.root={photos}")
    assert outcome.code == 0
    note = f"note: 2 hidden and system files and folders in {photos} are left out: sky/.DS_Store, sky/Thumbs.db"
    assert note in outcome.out.splitlines()


def test_a_split_without_a_label_of_one_of_the_tasks(refused: Callable[..., str], tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    with table.open("w") as file:
        file.write("path,split,age,tall,wide\n")
        for i, split in enumerate(["train"] * 6 + ["val"] * 4):
            Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"{i}.png")
            known = "" if split == "val" else f"{i % 2},{i % 3 % 2}"
            file.write(f"{i}.png,{split},{i},{known or ','}\n")
    options = ["data=csv", f"data.root={tmp_path}", "data.table=table.csv", "data.targets=[age]"]
    message = refused(*options, "data.labels=[tall,wide]", "heads=[multilabel,regression]")
    assert message.startswith("the val split has no label of multilabel in its 4 images")


# ---- the config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optimizer.learning_rate=1",
            "unknown config key 'optimizer.learning_rate'; near it: optimizer.lr, ",
        ),
        ("optimzer.lr=1", "unknown config key 'optimzer.lr'"),
        ("data.imagesize=1", "unknown config key 'data.imagesize'; near it: data.image_size, "),
        ("sead=1", "unknown config key 'sead'; near it: seed, "),
        ("+data.colour=1", "data.colour: unknown key"),
        (
            "optimizer=lion",
            "optimizer=lion: unknown option; write optimizer= one of adam, adamw, sgd",
        ),
        (
            "strategy=half",
            "strategy=half: unknown option; write strategy= one of bias_only, ",
        ),
        (
            "monitor=val/classification/map",
            "monitor=val/classification/map cannot decide which epoch is best; write one of val/classification/",
        ),
        (
            "strategy.schedule={blocks.6: 1}",
            "strategy.schedule names stage 'blocks.6', which this backbone lacks: its stages are block1, block2, heads",
        ),
        ("+loss_weights.depth=2", "loss_weights.depth: unknown head; write one of classification"),
        (
            "backbone.name=resnet5",
            "backbone.name=resnet5: no such network in torchvision, timm, transformers or visiontune; near it: "
            "resnet50",
        ),
        ("backbone.norm=instance", "backbone.norm=instance is not one of batch, group, none"),
        (
            "heads.classification.loss=hinge",
            "heads.classification.loss=hinge: write one of cross_entropy, focal, or a module",
        ),
        ("heads.classification.class_weights=[1,2]", "heads.classification.class_weights has 2 numbers for 10 classes"),
        ("data.batch_size=0", "data.batch_size=0: expected a whole number, 1 or more, got 0; write data.batch_size=32"),
        ("data.fold=1", "k-fold needs both: data.fold=0 data.folds=5 (fold goes from 0 to folds - 1)"),
        ("trainer.devices=2", "trainer.devices=2 needs trainer=ddp (GPUs) or trainer=ddp_cpu"),
        ("trainer.devices=many", "trainer.devices=many: expected a number of devices, or -1 for all GPUs, got text"),
        (
            "trainer.precision=bf16-true",
            "trainer.precision=bf16-true: expected 32-true, 16-mixed or bf16-mixed, got text",
        ),
        ("trainer.max_epochs=0", "trainer.max_epochs=0: expected a whole number from 1 to 1000000, got 0"),
        ("optimizer.lr=-1", "optimizer.lr=-1: expected a number above 0, or auto, got -1; write optimizer.lr=0.001"),
        ("optimizer.betas=[2,2]", "optimizer: Invalid beta parameter at index 0: 2"),
        ("heads.classification.dropout=2", "heads.classification: dropout probability has to be between 0 and 1"),
        (
            "+heads.classification.depth=2",
            "heads.classification.depth: visiontune.models.heads.ClassificationHead has no argument",
        ),
        ("+strategy.foo=1", "strategy.foo: visiontune.strategies"),
        ("seed=-1", "seed=-1: expected a whole number from 0 to 4294967295, got -1; write seed=42"),
        (
            "weights_from=nowhere",
            "nowhere is not a run directory (it has no config.yaml): write one that train printed",
        ),
        ("run=nowhere", "nowhere is not a run directory (it has no config.yaml): write one that train printed"),
    ],
)
def test_keys_and_values(override: str, message: str, refused: Callable[..., str]) -> None:
    answer = refused("optimizer=adamw", "strategy=gradual_unfreeze", override)
    assert answer.startswith(message)


def test_a_weights_file_that_does_not_fit(refused: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    torch.save({"conv9.weight": torch.zeros(3, 3)}, file)
    message = refused(f"backbone.weights={file}")
    assert str(file) in message and "backbone.min_matched" in message
    damage(file, b"nonsense")
    assert str(file) in refused(f"backbone.weights={file}")
    assert str(tmp_path / "none.pth") in refused(f"backbone.weights={tmp_path / 'none.pth'}")


def test_logs_that_cannot_be_written(command: Command, small: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    message = command("train", *small, f"paths.logs={tmp_path / 'file'}").message
    assert message.startswith(f"cannot write to {tmp_path / 'file'}/digits/")
    assert message.endswith(
        f": {tmp_path / 'file'} is a file; write run_dir=DIR or paths.logs=DIR with a folder that you may write to"
    )


def test_a_directory_that_is_not_empty(command: Command, small: list[str], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("dear")
    message = command("train", *small, f"run_dir={tmp_path / 'full'}").message
    assert message.startswith(f"{tmp_path / 'full'} is not empty: write another run_dir=DIR")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


# ---- the commands


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "there is no command 'trian': write one of train, plan, evaluate, predict, export"),
        (["evaluate"], "evaluate needs a value for run: write run=logs/digits/2026-11-22_09-15-02-k3f9"),
        (["evaluate", "run=nowhere"], "nowhere is not a run directory (it has no config.yaml): write one that train"),
        (["evaluate", "rum=x"], "unknown config key 'rum'; near it: run, "),
        (["predict", "run=RUN"], "predict needs a value for input: write input=photos"),
        (
            ["predict", "run=RUN", "input=nowhere"],
            "input=nowhere does not exist: write the path of an image, a video or a folder",
        ),
        (
            ["evaluate", "run=RUN", "split=best"],
            "split=best: expected train, val, test or all, got text; write split=val",
        ),
        (
            ["evaluate", "run=RUN", "checkpoint=first"],
            "first does not exist: write checkpoint=best, checkpoint=last or the",
        ),
        (["evaluate", "run=RUN", "checkpoint=RUN/config.yaml"], "RUN/config.yaml cannot be read as a checkpoint: "),
        (["evaluate", "run=RUN", "data_root=nowhere"], "data_root: the folder "),
        (["compare", "nowhere"], "nowhere: expected a run directory or a sweep directory"),
    ],
)
def test_other_commands(arguments: list[str], message: str, command: Command, run: Any) -> None:
    answer = command(*(argument.replace("RUN", str(run.path)) for argument in arguments)).message
    assert answer.startswith(message.replace("RUN", str(run.path)))


def test_a_folder_without_images_to_predict(command: Command, run: Any, tmp_path: Path) -> None:
    message = command("predict", f"run={run.path}", f"input={tmp_path}").message
    assert message == f"input={tmp_path} has no images: write a folder with files such as bird.jpg"
