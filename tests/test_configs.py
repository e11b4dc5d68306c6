"""Every YAML in configs/ is composed, and trains if a CPU can do it. A new file is tested without a change here.

Quick: the options of all groups in as few runs as the largest group has options, one run for each data set and head,
and the plan of every experiment. Slow: one run for each option; its config must have the values of the file.
"""

import csv
import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from miniatures import FORMATS
from omegaconf import DictConfig, OmegaConf
from real_layouts import LAYOUTS, write_pennfudan
from running import FEW, NARROW, Command, mostly_slow

from visiontune.config.compose import config_dir, train_config
from visiontune.models.backbones import build
from visiontune.runs import RunDirectory
from visiontune.sweeps import start
from visiontune.sweeps.study.sweep import Job

Config = Callable[..., DictConfig]
FOLDER = config_dir()
FILES = sorted(path for path in FOLDER.rglob("*.yaml") if path.parent.name != "local")
GROUPS = {path.relative_to(FOLDER).parts[0] for path in FILES if path.parent != FOLDER}
VERBS = {"train", "evaluate", "predict", "export", "compress", "fetch"}  # whole commands: tests/end_to_end
PARTS = {("data", "common"), ("backbone", "base")}  # other files of their group include them
PARTS |= {("pretrained", name) for name in ("base", "coco80", "coco91", "eomt")}


def options(*groups: str) -> list[tuple[str, str]]:
    names = [(path.parent.name, path.stem) for path in FILES if path.parent.name in groups]
    return [option for option in names if option not in PARTS]


def file_values(group: str, name: str) -> dict[str, Any]:
    """The values of a file as flat keys of the whole config, without interpolations."""
    path = FOLDER / group / f"{name}.yaml"
    prefix = "" if "@package _global_" in path.read_text() else f"{group}."
    flat: dict[str, Any] = {}

    def walk(key: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for inner, deeper in value.items():
                walk(f"{key}.{inner}" if key else str(inner), deeper)
        elif "${" not in str(value) and not key.startswith("hydra."):
            flat[key] = value

    content = yaml.safe_load(path.read_text()) or {}
    for key, value in content.items():
        if key != "defaults":
            walk(prefix + str(key), value)
    return flat


def check_run(run: RunDirectory, group: str, name: str, overrides: list[str], later: set[str]) -> DictConfig:
    """Check that the run finished with finite metrics, and that its config has the values of the file.

    Args:
        later: keys that a file composed later sets.
    """
    status = run.read_status()
    assert status["status"] == "finished" and math.isfinite(status["objective"]["value"])
    assert "the report is not complete" not in run.log.read_text()
    cfg = run.read_config()
    with run.history.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["epoch"]) == cfg.trainer.max_epochs
    assert math.isfinite(float(rows[-1]["train/loss"])) and math.isfinite(float(rows[-1]["val/loss"]))
    check_values(cfg, group, name, overrides, later)
    return cfg


def check_values(cfg: DictConfig, group: str, name: str, overrides: list[str], later: set[str]) -> None:
    """Check that the config has the values of the file. The arguments are those of `check_run`."""
    overridden = {override.split("=")[0] for override in overrides} | later
    for key, expected in file_values(group, name).items():
        if key not in overridden and expected is not None:  # null leaves it to the run
            value = OmegaConf.select(cfg, key)
            plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            if isinstance(expected, str) and not isinstance(plain, str):
                expected = type(plain)(expected)
            assert plain == expected, key


def test_every_group_has_a_test() -> None:
    assert {path.stem for path in FILES if path.parent == FOLDER} <= VERBS
    assert {*TRAINED, "trainer", "backbone", "pretrained", "sweep", "launcher", "recipe"} == GROUPS


TRAINED = ["augment", "callbacks", "data", "debug", "experiment", "heads", "hydra", "logger", "optimizer", "paths"]
TRAINED += ["scheduler", "search", "strategy", "technique"]


KINDS = ("dense", "detection", "instances", "multilabel", "multitask", "regression", "segmentation")


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[str]]]:
    """Option of `data` -> root of a miniature set, and the overrides that read it."""
    folder = tmp_path_factory.mktemp("formats")
    sets = {name: (write(folder / name), keys) for name, (write, keys) in FORMATS.items()}
    keys = ["heads=instances", "data.images=PNGImages", "data.masks=PedMasks", "data.suffix=_mask"]
    return sets | {"instance_masks": (write_pennfudan(folder), [*keys, "data.classes=[person]"])}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Experiment -> root of a miniature of its set."""
    folder = tmp_path_factory.mktemp("layouts")
    return {name: write(folder / name) for name, write in LAYOUTS.items()}


def narrow(experiment: str) -> list[str]:
    """Overrides that make the experiment's head small."""
    head = experiment.split("_")[1]
    return [f"heads.{head}.{key}" for key in NARROW.get(head, [])]


@pytest.fixture
def needs(
    tiles: Path,
    idx: Path,
    formats: dict[str, tuple[Path, list[str]]],
    layouts: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[tuple[str, str], list[str]]:
    """(group, option) -> the overrides that it needs to run."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return {
        ("data", "image_folder"): [f"data.root={tiles}"],
        ("experiment", "photos"): [f"data.root={tiles}"],
        ("data", "python"): ["data.dataset._target_=own_datasets.Rectangles", "+data.dataset.count=60"],
        ("data", "torchvision"): ["data.name=MNIST", f"data.root={idx}"],
        ("experiment", "mnist"): [f"data.root={idx}"],
        **{("data", name): [f"data.root={folder}", *keys] for name, (folder, keys) in formats.items()},
        **{
            ("experiment", name): [f"data.root={folder}", *narrow(name), "pretrained=none"]
            for name, folder in layouts.items()
        },
        **{("heads", kind): ["data=digit_scenes", "data.scenes=24"] for kind in KINDS},
        ("logger", "wandb"): ["logger.wandb.offline=true"],
        ("logger", "mlflow"): [f"logger.mlflow.tracking_uri=file://{tmp_path}/mlflow"],  # faster than a database
        ("augment", "dense"): ["data=digit_scenes", "heads=dense", "data.scenes=24"],
        ("augment", "masks"): ["data=digit_scenes", "heads=segmentation", "data.scenes=24"],
        ("augment", "objects"): ["data=digit_scenes", "heads=detection", "data.scenes=24"],
    }


Needs = dict[tuple[str, str], list[str]]


def select(group: str, name: str, tiny: list[str], needs: Needs) -> list[str]:
    """The overrides of a small run with an option."""
    overrides = [override for override in tiny if not override.startswith(f"{group}=")]
    overrides += needs.get((group, name), ["data.scenes=24"] if name.startswith("digit_scenes") else [])
    if name in ("image_folder", "photos"):  # all 60 images
        overrides.remove("data.limit_train=64")
    if group in ("hydra", "logger", "search"):  # of digits
        overrides.append(FEW)
    if group != "hydra":  # the only group that has no choice on the command line
        overrides.append(f"{group}={name}")
    return overrides


ALONE = ("data", "experiment", "heads", "hydra", "logger")  # groups whose options do not train together
QUICK = [("data", name) for name in ("csv", "image_folder", "masks", "yolo")]
EXCLUDED = {"strategy", "dense", "masks", "objects"}  # trials take long; digits have no targets for the others


@pytest.mark.usefixtures("no_report")  # tests/analysis tests the report
@pytest.mark.parametrize(
    ("group", "name"),
    [
        pytest.param(*option, marks=() if option in QUICK else pytest.mark.slow)
        for option in options(*TRAINED)
        if option[0] in ALONE or option[1] in EXCLUDED
    ],
)
def test_options_train(group: str, name: str, command: Command, tiny: list[str], needs: Needs) -> None:
    overrides = select(group, name, tiny, needs)
    later = {"augment.flip"} if group == "augment" else set()  # digits are not mirrored
    if group == "search":  # the run has the chosen strategy and no search
        later |= set(file_values(group, name))
    check_run(command("train", *overrides).run, group, name, overrides, later)


@pytest.mark.slow
@pytest.mark.parametrize(("group", "name"), [option for option in options(*TRAINED) if option[0] not in ALONE])
def test_options_set_the_config(group: str, name: str, config: Config, tiny: list[str], needs: Needs) -> None:
    overrides = select(group, name, tiny, needs)
    later = {"augment.flip"} if group == "augment" else set()  # digits are not mirrored
    cfg = config(base=overrides)
    check_values(cfg, group, name, overrides, later)
    assert "augment.flip" not in later or cfg.augment.flip is False


@pytest.mark.parametrize("name", [name for _, name in options("experiment")])
def test_experiments_are_planned(name: str, command: Command, tiny: list[str], needs: Needs) -> None:
    outcome = command("plan", *select("experiment", name, tiny, needs))
    assert outcome.code == 0 and "run directory: " in outcome.out, outcome.err


@pytest.mark.parametrize("head", mostly_slow([*KINDS[:4], *KINDS[5:]], "detection", "multilabel", "segmentation"))
def test_heads_train(head: str, trained_on: Callable[[str], RunDirectory]) -> None:
    check_run(trained_on(head), "heads", head, [f"heads.{head}.{key}" for key in NARROW.get(head, [])], set())


RUNNABLE = ("cpu", "default", "debug")


def option_combinations() -> list[list[str]]:
    """Overrides of a few runs that use every option: run i has option i of each group, modulo the size of the group."""
    groups = {group: [name for _, name in options(group) if name not in EXCLUDED] for group in TRAINED}
    for group in ALONE:
        del groups[group]
    groups["trainer"] = list(RUNNABLE)
    overridden = overridden_groups(groups)
    return [
        [f"{group}={names[i % len(names)]}" for group, names in groups.items() if (group, i) not in overridden]
        for i in range(max(map(len, groups.values())))
    ]


def overridden_groups(groups: dict[str, list[str]]) -> set[tuple[str, int]]:
    """(group, number of the run) of the groups that a file sets itself (`override /scheduler: step`)."""
    overridden = set()
    for group, names in groups.items():
        for i, name in enumerate(names):
            text = (FOLDER / group / f"{name}.yaml").read_text()
            overridden |= {(other, i) for other in re.findall(r"- override /(\w+):", text)}
    return overridden


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("choices", mostly_slow(option_combinations(), *option_combinations()[:4]), ids=" ".join)
def test_options_train_together(choices: list[str], command: Command, tiny: list[str]) -> None:
    run = command("train", *[override for override in tiny if not override.startswith("trainer=")], *choices).run
    status = run.read_status()
    assert status["status"] == "finished" and math.isfinite(status["objective"]["value"])


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("name", [name for _, name in options("trainer") if name in RUNNABLE])
def test_trainers_of_one_process_train(name: str, command: Command, tiny: list[str]) -> None:
    overrides = [o for o in tiny if not o.startswith("trainer")] + [f"trainer={name}"]
    if name != "debug":  # which sets two epochs
        overrides.append("trainer.max_epochs=1")
    check_run(command("train", *overrides).run, "trainer", name, overrides, set())


@pytest.mark.parametrize("name", [name for _, name in options("trainer")])
def test_trainers_have_arguments_that_lightning_knows(name: str) -> None:
    cfg = train_config([f"trainer={name}"])  # not resolved: this machine may lack the devices
    settings = OmegaConf.to_container(cfg.trainer)
    assert isinstance(settings, dict)
    assert settings.pop("_target_") == "lightning.Trainer"
    assert set(settings) <= set(inspect.signature(L.Trainer).parameters)
    accelerator, devices, strategy, precision = {
        "cpu": ("cpu", 1, "auto", "32-true"),
        "default": ("auto", 1, "auto", "32-true"),
        "debug": ("cpu", 1, "auto", "32-true"),
        "gpu": ("gpu", 1, "auto", "bf16-mixed"),
        "mps": ("mps", 1, "auto", "32-true"),
        "ddp": ("gpu", 2, "ddp", "bf16-mixed"),
        "ddp_cpu": ("cpu", 2, "ddp", "32-true"),  # trains in tests/end_to_end
    }[name]
    assert (settings["accelerator"], settings["devices"]) == (accelerator, devices)
    assert (settings["strategy"], settings["precision"]) == (strategy, precision)


@pytest.mark.parametrize("name", [name for _, name in options("backbone")])
def test_backbones_are_built(name: str, config: Config) -> None:
    """On the meta device, since some have a hundred million parameters; tests/models/backbones trains each."""
    cfg = config(f"backbone={name}", base=[])
    settings: Any = OmegaConf.to_container(cfg.backbone)
    with torch.device("meta"):
        backbone, _ = build(**settings | {"weights": None}, image_size=96)
    assert backbone.name == settings["name"] == (name if name != "efficientnet_lite0" else "tf_efficientnet_lite0")
    assert settings["weights"] == (None if name == "small_cnn" else "auto")
    assert len(backbone.stages()) >= 2


WHOLE_MODELS = {
    "coco_detection": ("fasterrcnn_resnet50_fpn_v2", 1056, 2e-5),
    "coco_instances": ("maskrcnn_resnet50_fpn_v2", 1056, 2e-5),
    "pennfudan_instances": ("maskrcnn_resnet50_fpn_v2", 1056, 5e-5),
    "voc_detection": ("fasterrcnn_resnet50_fpn_v2", 1056, 5e-5),
    "voc_segmentation": ("deeplabv3_resnet50", 520, 5e-5),
}


@pytest.mark.parametrize("name", mostly_slow(WHOLE_MODELS, "pennfudan_instances", "voc_segmentation"))
def test_experiments_that_begin_from_a_whole_model(name: str, config: Config) -> None:
    model, side, lr = WHOLE_MODELS[name]
    cfg = config(f"experiment={name}", base=["trainer=cpu"])
    assert (cfg.pretrained.name, cfg.pretrained.weights) == (model, "default")
    assert (cfg.data.image_size, cfg.data.resize, cfg.optimizer.lr) == (side, "letterbox", lr)
    assert cfg.strategy._target_.endswith("Full") and cfg.heads[cfg.pretrained.task]


def test_an_experiment_says_what_it_would_download(command: Command, layouts: dict[str, Path]) -> None:
    root = f"data.root={layouts['voc_detection']}"
    outcome = command("plan", "experiment=voc_detection", root, "trainer=cpu", "data.num_workers=0")
    assert outcome.code == 0, outcome.err
    assert "weights: torchvision FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1 (167 MB would be downl" in outcome.out
    assert "kept rows: aeroplane, bicycle, " in outcome.out and "(20 classes)" in outcome.out
    assert "fresh" not in outcome.out


PRETRAINED = [name for _, name in options("pretrained")]


@pytest.mark.parametrize("name", mostly_slow(PRETRAINED, "lraspp_mobilenet_v3_large"))
def test_pretrained_models_are_planned(name: str, command: Command) -> None:
    """The weights have the parameters of the model that the file describes, and are not downloaded."""
    content = train_config([f"pretrained={name}"]).pretrained
    heads = [] if content is None else [f"heads={content.task}", "data=digit_scenes", "data.scenes=24"]
    outcome = command("plan", f"pretrained={name}", *heads, "trainer=cpu", "data.num_workers=0", "data.batch_size=4")
    assert outcome.code == 0, outcome.err
    assert ("would be downloaded" in outcome.out) == (content is not None)
    if content is not None:
        assert f"model: {content.backbone} ({content.library})" in outcome.out
        kept = "background" if (content.task, content.library) == ("segmentation", "torchvision") else "none"
        assert f"kept rows: {kept}; fresh: " in outcome.out


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for _, name in options("sweep")])
def test_sweeps_run(
    name: str, command: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every job is composed and checked; the first two train, or two suggestions."""
    content = yaml.safe_load((FOLDER / "sweep" / f"{name}.yaml").read_text())
    settings, params = content.get("sweep", {}), content.get("hydra", {}).get("sweeper", {}).get("params", {})
    keys = [item for item in tiny if item.partition("=")[0].partition(".")[0] not in params]
    is_search = settings.get("sampler", "grid") != "grid"
    if is_search:
        keys += ["optimizer.lr=tag(log,interval(1e-3,1e-1))", "sweep.trials=2", "seed=0"]
    elif not params:
        keys += ["optimizer.lr=0.1,0.001"]
    is_pruned = settings.get("pruner", "none") != "none"
    more = ["trainer.max_epochs=2"] if is_pruned else []  # a job is pruned after one epoch at the earliest
    more += ["data.image_size=32"] if "backbone" in params else []  # 16 pixels are too few for some
    jobs: list[Job] = []
    original = start.build_jobs

    def build_two(*arguments: Any) -> list[Job]:
        jobs.extend(original(*arguments))
        return jobs[:2]

    monkeypatch.setattr(start, "build_jobs", build_two)
    arguments = [f"sweep={name}", *keys, *more, "sweep.workers=0", f"sweep_dir={tmp_path / 'sweep'}"]
    outcome = command("train", "-m", *arguments)
    assert outcome.code == 0, outcome.err
    if params and not is_search:
        sweeps = OverridesParser.create().parse_overrides([f"{key}={values}" for key, values in params.items()])
        assert len(jobs) == math.prod(len(list(sweep.sweep_string_iterator())) for sweep in sweeps)
    assert [path.name for path in sorted((tmp_path / "sweep").iterdir()) if path.is_dir()] == ["000", "001"]
    for number in ("000", "001"):
        run = RunDirectory.open(tmp_path / "sweep" / number)
        assert run.read_status()["status"] in (["finished", "pruned"] if is_pruned else ["finished"])
        assert run.read_config().test is (name == "folds")  # a cross-validation evaluates the held-out fold


# Small enough for a test, with limits that a network of a few thousand parameters keeps. Other tests run the recipes
# int8 (tests/compression/test_compress.py) and prune (tests/end_to_end/test_kill_recipe.py).
RECIPES = {
    "qat": ["recipe.steps.int8.max_drop=100", "recipe.steps.qat.overrides.2='epochs=1'"],
    "sparsify": [],
    "distill": ["++recipe.steps.distill.overrides.1='backbone.widths=[2,4]'"],
    "small": [
        "recipe.steps.small.max_drop=100",
        "recipe.steps.small.prune=[]",
        "recipe.steps.small.students={cnn: ['backbone.depth=2', 'distill.teacher=SOURCE']}",
    ],
}


def test_every_recipe_is_run() -> None:
    assert {name for _, name in options("recipe")} == {*RECIPES, "int8", "prune"}


@pytest.mark.slow
@pytest.mark.usefixtures("brief_measurements")
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_recipes_write_a_run(recipe: str, command: Command, tiny: list[str], tmp_path: Path) -> None:
    source = command("train", *tiny, FEW, f"run_dir={tmp_path / 'run'}").run
    compressed = command("compress", f"run={source.path}", f"recipe={recipe}", "compile=false", *RECIPES[recipe]).run
    assert compressed.read_status()["status"] == "finished"
    assert "test/classification/accuracy" in compressed.metrics.read_text()
    outcome = command("evaluate", f"run={compressed.path}")
    assert outcome.code == 0 and "test/classification/accuracy" in outcome.out
    assert (source.path / "compressed" / recipe / "table.md").is_file()
