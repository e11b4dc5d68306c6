"""Every key has a type and a range; a wrong value is one message."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from running import Command

from visiontune.config.check import VERBS, check
from visiontune.config.compose import config_dir, train_config
from visiontune.config.key_types import holds_text, key_type, takes_text
from visiontune.config.overrides import prepare
from visiontune.errors import UserError


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epochs=many", "expected a whole number from 1 to 1000000, got text; write trainer.max_epochs=30"),
        ("epochs=1.5", "expected a whole number from 1 to 1000000, got 1.5; write epochs=30"),
        ("data.batch_size=-1", "expected a whole number, 1 or more, got -1; write data.batch_size=32"),
        ("seed=x", "expected a whole number from 0 to 4294967295, got text; write seed=42"),
        ("seed=true", "expected a whole number from 0 to 4294967295, got true; write seed=42"),
        ("seed=-1", "expected a whole number from 0 to 4294967295, got -1; write seed=42"),
        ("optimizer.lr=fast", "expected a number above 0, or auto, got text; write optimizer.lr=0.001"),
        ("optimizer.lr=nan", "expected a number above 0, or auto, got nan; write optimizer.lr=0.001"),
        ("data.resize=stretch", "expected squash, crop or letterbox, got text; write data.resize=crop"),
        ("data.image_size=[64,0]", "expected a number of pixels up to 16384, or [HEIGHT,WIDTH], got a list"),
        ("trainer.devices=0", "expected a number of devices, or -1 for all GPUs, got 0; write trainer.devices=2"),
        ("trainer.precision=16", "expected 32-true, 16-mixed or bf16-mixed, got 16"),
        ("checkpoints.every_steps=0", "expected a number of optimizer steps, 1 or more, or null, got 0"),
        ("distill.weight=2", "expected a fraction from 0 to 1, got 2; write distill.weight=0.5"),
        ("test=maybe", "expected true, false or auto, got text; write test=true"),
        ("data.image_size=[16]", "expected a number of pixels up to 16384, or [HEIGHT,WIDTH], got a list"),
        ("data.num_workers=many", "expected a number of data-loader workers from 0 to 1024, or auto, got text"),
        ("data.labelled=0", "expected a fraction above 0 and at most 1, got 0; write data.labelled=0.67"),
        ("data.channels=2", "expected 3 (color), 1 (grey) or 4 (four bands as stored), got 2; write data.channels=3"),
        ("data.cache=disk", "expected none or memory, got text; write data.cache=memory"),
        ("augment.resize_range=2.0", "expected two numbers, or null, got 2.0; write augment.resize_range=[0.5,1.5]"),
        ("augment.crop=[a,b]", "expected two fractions, or null, got a list; write augment.crop=[0.5,1.0]"),
        ("augment.min_visible=20", "expected a fraction from 0 to 1, got 20; write augment.min_visible=0.2"),
        ("augment.auto=magic", "expected trivial, rand, augmix or null, got text; write augment.auto=trivial"),
        ("augment.erase=20", "expected a fraction from 0 to 1, got 20; write augment.erase=0.25"),
        ("augment.rotate=-5", "expected a number of degrees, 0 or more, got -5; write augment.rotate=15"),
        ("augment.mixup=a", "expected a number, 0 or more, got text; write augment.mixup=0.2"),
        ("augment.grey=null", "expected a fraction from 0 to 1, got null; write augment.grey=0.1"),
        ("augment.fill=300", "expected a grey value from 0 to 255, got 300; write augment.fill=114"),
        ("augment.hue=0.7", "expected a number from 0 to 0.5, got 0.7; write augment.hue=0.05"),
        ("augment.flip=1", "expected true or false, got 1; write augment.flip=true"),
    ],
)
def test_wrong_values(override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        check("train", train_config([override]))
    assert str(error.value).startswith(f"{override}: {message}")


def test_values_get_the_type_of_their_key() -> None:
    cfg = train_config(["epochs=1e1", "name=2024", "trainer.limit_train_batches=1", "data.limit_train=64.0"])
    checked = check("train", cfg)
    assert checked.epochs == checked.trainer.max_epochs == 10 and isinstance(checked.trainer.max_epochs, int)
    assert checked.name == "2024" and checked.data.limit_train == 64
    assert isinstance(checked.trainer.limit_train_batches, int)  # one batch; 1.0 is all of them
    assert list(checked) == list(cfg)  # the order of keys
    cfg = train_config(["data=python", "data.dataset._target_=mine.Birds", "data.classes={kind: [1,b], size: [c]}"])
    assert check("train", cfg).data.classes == {"kind": ["1", "b"], "size": ["c"]}


def test_wrong_values_on_the_command_line(command: Command) -> None:
    assert command("train", "trainer.max_epochs=many").message.startswith("trainer.max_epochs=many: expected a whole")
    assert command("train", "debug=yes").message.startswith("debug=yes: unknown option; write debug= one of fast")
    message = command("evaluate", "run=x", "split=many").message
    assert message == "split=many: expected train, val, test or all, got text; write split=val"
    message = command("predict", "run=x", "input=y", "batch_size=0").message
    assert message == "batch_size=0: expected a whole number, 1 or more, got 0; write batch_size=32"


def test_missing_values_have_an_example(command: Command) -> None:
    message = command("plan", "backbone=base").message
    assert message == "train needs a value for backbone.name: write backbone.name=resnet50"


@pytest.mark.parametrize("verb", ["evaluate", "predict", "export", "compress"])
def test_shipped_values_are_valid(verb: str) -> None:
    cfg = OmegaConf.load(config_dir() / f"{verb}.yaml")
    plain = {key: value for key, value in OmegaConf.to_container(cfg).items() if value != "???"}  # type: ignore[union-attr]
    VERBS[verb].model_validate({"run": "x", "input": "x", **plain})


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("name=2024_06", "2024_06"),
        ("run_dir=7", "7"),
        ("data.root=2024 work", "2024 work"),
        ("data.root=/a/it's (1),x=y", "/a/it's (1),x=y"),
        ("data.root=1e3\\", "1e3\\"),
        ("data.label=true", "true"),
        ("data.table=~/t.csv", str(Path("~/t.csv").expanduser())),
        ("name=null", None),
    ],
)
def test_names_and_paths_are_text(typed: str, text: str | None) -> None:
    key = typed.partition("=")[0]
    cfg = train_config(["data=csv", *prepare("train", [typed], multirun=False)])
    assert OmegaConf.select(cfg, key) == text


def test_columns_are_text() -> None:
    cfg = train_config(["data=csv", *prepare("train", ["data.targets=[2024_06,width]"], multirun=False)])
    assert list(cfg.data.targets) == ["2024_06", "width"]


def test_a_sweep_over_names_is_a_sweep() -> None:
    assert prepare("train", ["name=1_0,b", "seed=0,1"], multirun=True) == ["name='1_0',b", "seed=0,1"]


def test_the_schema_says_which_keys_are_text() -> None:
    for verb, keys in {
        "train": "name note run data.root data.images data.images.train paths.logs backbone.weights distill.teacher",
        "plan": "data.table monitor",
        "evaluate": "run checkpoint data_root output",
        "predict": "input",
    }.items():
        assert all(takes_text(key_type(verb, key)) for key in keys.split()), verb
    for key in ("tags", "data.classes", "data.labels"):
        assert holds_text(key_type("train", key)) and not takes_text(key_type("train", key))
    for key in ("seed", "epochs", "data.image_size", "optimizer.lr", "loss_weights", "callbacks.x.y", "data.colour"):
        assert not holds_text(key_type("train", key)), key
