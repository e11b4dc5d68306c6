"""Command lines as people type them: names and paths of any kind, numbers, flags, sweeps and wrong values."""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from inputs import write_folders, write_image
from omegaconf import OmegaConf
from running import Command, Outcome

from visiontune.config.check import check
from visiontune.config.compose import train_config
from visiontune.config.overrides import prepare
from visiontune.errors import UserError, shell_override
from visiontune.runs import RunDirectory

Plan = Callable[..., Outcome]

NAMES = [
    "Vögel", "photos (1)", "2024", "2024_06", "7", "1e3", "true", "NULL", "inf", "0x10", "007", "a,b.jpg", "it's",
    '"quoted"', "'quoted'", "100%", "#1", "a=b", "=", "epoch=9.ckpt", r"C:\data", "a\\", r"\'", "[draft]", "[a", "{x}",
    "{a: b}", "choice(a,b)", "range(3)", "😀", "a\u00a0b", "a\u2028b", " x ", "a: b", "-", "$5", "$HOME", "a$", "!a",
    "&", "\uff21\uff11", "日本", "e\u0301", "a\tb", "a\nb", "a;b|c", "*?", "@x", "a~", "~nobody_here", "(", ")", "`x`",
    "???a", "[]",
]  # fmt: skip


def read(override: str, verb: str = "train", multirun: bool = False) -> object:
    """The value of an override as Hydra reads it after `prepare`."""
    (prepared,) = prepare(verb, [override], multirun)
    parsed = OverridesParser.create().parse_override(prepared)
    if parsed.is_sweep_override():
        parts = [f"key={value}" for value in parsed.sweep_string_iterator()]
        return [OverridesParser.create().parse_override(part).value() for part in parts]
    return parsed.value()


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_text_is_read_as_typed(name: str) -> None:
    for key in ("name", "note", "run_dir", "data.root", "data.label", "paths.logs", "backbone.weights", "weights_from"):
        assert read(f"{key}={name}") == name, key
    assert read(f"input={name}", "predict") == read(f"checkpoint={name}", "evaluate") == name
    assert read(f"output={name}", "export") == read(f"run={name}", "compress") == name


def test_text_that_means_something_else() -> None:
    assert read("name=null") is None and read("data.root=") == ""
    assert read("name=${seed}_ü (1)") == "${seed}_ü (1)"  # an interpolation
    assert read("data.root=~/Ü") == str(Path("~/Ü").expanduser())
    for override in ("name=${seed", "name=${}", "note=\\${seed}", "data.root=\udcff", "name=a\x85b"):
        with pytest.raises(UserError) as error:
            read(override)
        assert override.partition("=")[0] in str(error.value)


def test_lists_and_mappings_keep_their_grammar() -> None:
    assert read("data.classes=[Vögel,Spatz (m)]") == ["Vögel", "Spatz (m)"]
    assert read("data.classes=[0,1]") == ["0", "1"] and read("tags=[true, False,null]") == ["true", "False", "null"]
    assert read("data.classes=['a,b',\"c'd\",it's]") == ["a,b", "c'd", "it's"]
    assert read("data.classes=[]") == read("data.classes=[ ]") == [] and read("tags=[a,]") == ["a"]
    assert read("data.images={train: Ü/a, val: b (1)}") == {"train": "Ü/a", "val": "b (1)"}
    assert read(r"data.annotations={train:C:\a, val:2024}") == {"train": r"C:\a", "val": "2024"}
    assert read("data.classes={kind: [1,ö], size: [c]}") == {"kind": ["1", "ö"], "size": ["c"]}
    assert read("strategy.schedule={blocks.6: 1}") == {"blocks.6": 1}
    assert read("optimizer.betas=[0.9,0.99]") == [0.9, 0.99] and read("data.image_size=[64,32]") == [64, 32]
    assert read("+x.paths=[Ü,1,true]") == ["Ü", 1, True] and read("+x.size={a: 1, b: ö}") == {"a": 1, "b": "ö"}
    assert read("heads=[classification,segmentation]") == ["classification", "segmentation"]
    for override in ("tags=[a,,b]", "strategy.schedule={blöcke: 1}"):
        with pytest.raises(UserError, match="this value cannot be read; write it into a YAML file"):
            read(override)


def test_sweeps_keep_their_grammar() -> None:
    assert read("data.root=a (1),b (2)", multirun=True) == ["a (1)", "b (2)"]
    assert read("name=2024_06,it's,true", multirun=True) == ["2024_06", "it's", "true"]
    assert read("name='a,b',c", multirun=True) == ["a,b", "c"] and read("name='a,b'", multirun=True) == "a,b"
    assert read("name=choice(ä,1_0)", multirun=True) == ["ä", "1_0"]
    assert read("data.classes=[0,1],[ö]", multirun=True) == [["0", "1"], ["ö"]]
    assert read("seed=0,1", multirun=True) == [0, 1] and read("seed=range(0,3)", multirun=True) == [0, 1, 2]
    assert read("data.root=it's (1)", multirun=True) == "it's (1)"
    with pytest.raises(
        UserError, match=r"^seed=0,1: several values are a sweep, which needs -m, and seed='\[0,1\]' is"
    ):
        read("seed=0,1")


def test_other_values() -> None:
    keys = ["epochs=1e1", "test=TRUE", "data.limit_train=6_4", "optimizer.lr=1E-3", "+data.own=Ü (1)"]
    cfg = check("train", train_config(prepare("train", keys, multirun=False)))
    assert (cfg.epochs, cfg.trainer.max_epochs, cfg.test, cfg.data.limit_train) == (10, 10, True, 64)
    assert cfg.optimizer.lr == 0.001 and cfg.data.own == "Ü (1)"


def test_truth_values_of_a_yaml_file_are_no_text(tmp_path: Path) -> None:
    cfg = train_config(["data=csv"])
    for classes in (["on", False], {"kind": [True]}, [1.1, "1.2"], {"kind": [1.1]}):
        with pytest.raises(UserError, match=r"in a YAML file, put quotes around text such as 'on' and '1.10'$"):
            check("train", OmegaConf.merge(cfg, {"data": {"classes": classes}}))
    with pytest.raises(UserError, match=r"^data.split_ratio.train=1.5: .* write data.split_ratio.train=0.7$"):
        check("train", OmegaConf.merge(cfg, {"data": {"split_ratio": {"train": 1.5}}}))


def test_a_text_survives_the_config_of_a_run() -> None:
    names = [name for name in NAMES if name != "NULL"]
    cfg = train_config(prepare("train", ["tags=[]", "name=Ü (1)"], multirun=False))
    cfg.tags = names
    stored = OmegaConf.create(OmegaConf.to_yaml(check("train", cfg), resolve=True))
    assert list(stored.tags) == names and stored.name == "Ü (1)"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epochs=many", "trainer.max_epochs=many: expected a whole number from 1 to 1000000, got text"),
        (
            "trainer.max_epochs=zwölf (12)",
            "trainer.max_epochs=zwölf (12): expected a whole number from 1 to 1000000, got text",
        ),
        ("test=yes", "test=yes: expected true, false or auto, got text; write test=true"),
        ("seed=" + "9" * 5000, "seed=999"),
        ("strategy=full,lp_ft", "strategy=full,lp_ft: unknown option; write strategy= one of bias_only, "),
        ("strategy=völlig (1)", "strategy=völlig (1): unknown option; write strategy= one of bias_only, "),
        ("experiment=a/b", "experiment=a/b: unknown option; write experiment= one of coco_detection, "),
        ("hydra/launcher=nope", "hydra/launcher=nope: unknown option; write hydra/launcher= one of basic"),
        ("hydra.nope=1", "unknown config key 'hydra.nope': `visiontune plan --cfg hydra` prints all keys"),
        (
            "photo.jpg",
            "photo.jpg: expected KEY=VALUE; the shell needs quotes around spaces, as in data.root='my photos'",
        ),
        ("Vögel=1", "Vögel=1: expected KEY=VALUE; "),
        ("=1", "=1: expected KEY=VALUE; "),
        ("data..root=1", "data..root=1: expected KEY=VALUE; "),
        ("~optimizer", "train needs a value for optimizer: write optimizer=adamw"),
        ("strategy=null", "strategy=null: unknown option; write strategy= one of bias_only, "),
        ("run_dir=~nobody_here/x", "run_dir=~nobody_here/x: there is no such user; write ./ before the ~ for a folder"),
        ("--nope", "unrecognized arguments: --nope; `visiontune plan --help` prints what may be set"),
        ("-1", "unrecognized arguments: -1; "),
        ("--config-dir=/nowhere", "--config-dir /nowhere: there is no such folder; "),
        ("-cd", "argument --config-dir/-cd: expected one argument; "),
        ("--config-name=nope", "Cannot find primary config 'nope'"),
        ("--resolve", "--resolve needs --cfg job; "),
        ("--experimental-rerun=x", "--experimental-rerun is not supported; "),
    ],
    ids=lambda value: value[:20],
)
def test_wrong_overrides_and_options(override: str, message: str, plan: Plan) -> None:
    assert plan(override).message.startswith(message)


def test_debug_is_a_flag_in_any_case(command: Command) -> None:
    for value in ("true", "True", "TRUE"):
        outcome = command("evaluate", "run=nowhere", f"debug={value}")
        assert outcome.code == 2 and "Traceback" in outcome.err and "error: nowhere is not a run" in outcome.err
    assert command("evaluate", "run=nowhere", "debug=yes").message.startswith("debug=yes: expected true or false")


# ---- folders and runs


@pytest.mark.parametrize("name", ["Vögel", "photos (1)", "2024", "it's, 100% [x]={y} #1"])
def test_folders_work_as_typed(name: str, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folders(tmp_path / name, count=8)
    monkeypatch.chdir(tmp_path)
    outcome = plan("data=image_folder", f"data.root={name}")
    assert outcome.code == 0, outcome.err
    assert "data: classification, 2 classes\n" in outcome.out and f"/{name}/TIME-ID" in outcome.out.splitlines()[-1]


def test_runs_and_images_work_as_typed(run: RunDirectory, command: Command, tmp_path: Path) -> None:
    place = tmp_path / "Läufe (1), it's"
    shutil.copytree(run.path, place)
    shutil.copy(place / "checkpoints" / "best.ckpt", place / "epoch=9.ckpt")
    image = write_image(tmp_path / "NAME (1).jpeg")
    arguments = [f"run={place}", f"checkpoint={place / 'epoch=9.ckpt'}"]
    output = tmp_path / "Ausgabe [1]"
    outcome = command("predict", *arguments, f"input={image}", f"output={output}")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[-1] == str(output)
    rows = (output / "predictions.csv").read_text().splitlines()
    assert len(rows) == 2 and rows[1].startswith("NAME (1).jpeg,")
    message = command("train", f"run={place}").message
    assert shlex.split(message.partition("weights with weights_from=")[2]) == [str(place)]


def test_hints_can_be_pasted() -> None:
    assert shell_override("run", "logs/digits/a-1") == "run=logs/digits/a-1"
    for name in NAMES:
        assert shlex.split(shell_override("run", name)) == [f"run={name}"]


# ---- sweeps


def test_evaluate_names_each_run(
    run: RunDirectory, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run.path, tmp_path / "a (1)")
    monkeypatch.chdir(tmp_path)
    outcome = command("evaluate", "-m", f"run=a (1),{run.path}", "split=val", "output=null")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    half = len(lines) // 2
    assert lines[0] == "run='a (1)'" and lines[half + 1] == f"run={run.path}" and lines[half] == ""
    assert lines[1:half] == lines[half + 2 :] and lines[1].startswith("val/classification/accuracy")
    assert [path.name for path in tmp_path.iterdir()] == ["a (1)"]
    message = command("evaluate", "-m", f"run=a (1),{run.path}", f"output={tmp_path / 'o'}").message
    assert message.startswith(f"output={tmp_path / 'o'}: each job would overwrite the files of the one before; ")
    message = command("evaluate", "-m", f"run={run.path}", "split=val,most,none").message
    assert message.startswith("2 of 3 jobs are wrong, so none is started:\n  split=most: expected ")


@pytest.mark.slow
def test_plan_of_a_sweep_writes_nothing(plan: Plan, tmp_path: Path) -> None:
    outcome = plan("-m", "strategy=full,linear_probe", f"sweep_dir={tmp_path / 's'}")
    assert outcome.code == 0, outcome.err
    assert "strategy=full" in outcome.out.splitlines() and "strategy=linear_probe" in outcome.out.splitlines()
    assert [line.split()[-1] for line in outcome.out.splitlines() if "run directory: " in line] == [
        str(tmp_path / "s" / "000"),
        str(tmp_path / "s" / "001"),
    ]
    assert not list(tmp_path.iterdir())


def test_wrong_sweeps_start_nothing(command: Command, tiny: list[str], tmp_path: Path) -> None:
    place = tmp_path / "sweep"
    (tmp_path / "used" / "001").mkdir(parents=True)
    (tmp_path / "used" / "001" / "config.yaml").touch()
    for arguments, message in (
        (
            ["optimizer.lr=0.1,fast (1)"],
            "1 of 2 jobs are wrong, so none is started:\n  optimizer.lr=fast (1): expected a",
        ),
        (["strategy=full,half", "seed=0,-1"], "3 of 4 jobs are wrong, so none is started:\n  seed=-1: expected "),
        (["seed=0,1", "epochs=x"], "epochs=x: expected a whole number from 1 to 1000000, got text; write epochs=30"),
        (["seed=0,1", "sead=1"], "unknown config key 'sead'; near it: seed, "),
        ([f"run_dir={tmp_path}"], f"run_dir={tmp_path}: the runs of a sweep are in numbered directories of one folder"),
        (["run=a,b"], "run=a,b: -m starts new runs; resume one run at a time with visiontune train run=DIR"),
        (
            ["seed=0,1", "sweep_dir=/proc/nope"],
            "cannot write to /proc/nope: No such file or directory; write sweep_dir=DIR",
        ),
        (
            ["seed=0,1", f"sweep_dir={tmp_path / 'used'}"],
            f"{tmp_path / 'used' / '001'} already holds a run: write another",
        ),
    ):
        assert command("train", "-m", *tiny, f"sweep_dir={place}", *arguments).message.startswith(message)
    assert [path.name for path in tmp_path.iterdir()] == ["used"]
