"""Values, folders and class names for the verbs: used as typed, or one message before anything starts."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from inputs import write_folders, write_image
from omegaconf import OmegaConf
from running import TINY, Command, Outcome

from visiontune.config.check import check
from visiontune.config.compose import train_config
from visiontune.config.jobs import check_jobs
from visiontune.config.overrides import prepare
from visiontune.config.split import read_pairs
from visiontune.data.text import normalized
from visiontune.errors import UserError
from visiontune.models.heads.classification import ClassificationHead
from visiontune.runs import RunDirectory
from visiontune.runs.log import log, logging_to
from visiontune.runs.output import check_results
from visiontune.sweeps.comparison.table import table
from visiontune.sweeps.study.entries import read_run
from visiontune.training.load import read_checkpoint


def test_values_out_of_range() -> None:
    base = train_config(["technique=[ema,wise_ft]"])
    for override, message in (
        ("epochs=1e9", "epochs=1000000000.0: expected a whole number from 1 to 1000000, got 1000000000.0"),
        ("data.image_size=100000", "data.image_size=100000: expected a number of pixels up to 16384, or ["),
        ("data.num_workers=9999", "data.num_workers=9999: expected a number of data-loader workers from 0 to 1024"),
        (
            "trainer.limit_val_batches=0",
            "trainer.limit_val_batches=0: expected a fraction, or a number of batches, abo",
        ),
        ("trainer.strategy=fsdp", "trainer.strategy=fsdp: expected auto or ddp, got text; write trainer.strategy=ddp"),
        ("run_dir=", "run_dir=: expected a folder, or null, got nothing; write run_dir=runs/first"),
        ("weights_from=  ", "weights_from=  : expected a run directory, or null, got nothing; write weights_from=logs"),
        ("technique.wise_ft={factors: []}", "technique.wise_ft.factors=[]: expected factors from 0 to 1, got an empty"),
    ):
        (prepared,) = prepare("train", [override], multirun=False)
        parsed = OverridesParser.create().parse_override(prepared)
        cfg = base.copy()
        OmegaConf.update(cfg, parsed.key_or_group, parsed.value())
        with pytest.raises(UserError) as error:
            check("train", cfg)
        assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.split_ratio=[0.7,0.3]"], "data.split_ratio=[0.7,0.3]: expected a fraction for each split; write data."),
        (["data.root=???"], "data.root=???: ??? marks a value that is missing; write data.root=VALUE"),
        (["sweep=lr"], "sweep=lr needs -m: write visiontune plan -m sweep=lr"),
        (["launcher=slurm"], "launcher=slurm needs -m: write visiontune plan -m launcher=slurm"),
        (["name=../x"], "name=../x: expected the name of a folder in paths.logs; for another place write run_dir=../x"),
        (
            ["data=torchvision", "data.name=cifar10"],
            "data.name=cifar10: unknown data set. Did you mean data.name=CIFAR",
        ),
        (["data=image_folder", f"data.root={__file__}"], f"data.root: {__file__} is not a folder. Write data.root=DIR"),
        (["data=image_folder", f"data.root={'x' * 300}"], "data.root: the path "),
    ],
    ids=lambda value: str(value)[:20],
)
def test_overrides_with_one_message(arguments: list[str], message: str, plan: Callable[..., Outcome]) -> None:
    assert plan(*arguments).message.startswith(message)


def test_commands_with_one_message(run: RunDirectory, command: Command) -> None:
    for arguments, message in (
        (["train", "run="], "run=: expected a run directory, got nothing; write run=logs/"),
        (["train", f"run={'x' * 300}"], "run: the path "),
        (["train", "run=${seed}"], "42 is not a run directory"),
        (
            ["evaluate", f"run={run.path}", "output="],
            "output=: expected a folder, or null, got nothing; write output=r",
        ),
        (["evaluate", f"run={run.path}", "data.root=x"], "unknown config key 'data.root'; near it: data_root"),
        (
            ["predict", f"run={run.path}", "input=a", "input=b"],
            "input=a input=b: expected one input; write input=b, or",
        ),
        (["compress", f"run={run.path}"], "compress needs a value for recipe: write recipe= one of distill, int8, "),
    ):
        assert command(*arguments).message.startswith(message)
    with pytest.raises(UserError, match=r"config\.yaml cannot be read as a checkpoint: it is truncated, or torch"):
        read_checkpoint(run.config)


def test_debug_is_a_flag_of_train_too(plan: Callable[..., Outcome]) -> None:
    assert "Traceback" in plan("debug=True", "data=image_folder").err


# ---- results of the user's own


def test_results_replace_only_those_of_an_earlier_command(tmp_path: Path) -> None:
    names = ("predictions.csv", "images")
    check_results(tmp_path / "none", names)
    (tmp_path / "thesis.txt").touch()
    check_results(tmp_path, names)
    (tmp_path / "images" / "train").mkdir(parents=True)
    check_results(tmp_path, names)
    (tmp_path / "images" / "train" / "mine.png").touch()
    with pytest.raises(UserError, match=r"images exists and is not from an earlier command, so it is not replaced"):
        check_results(tmp_path, names)
    (tmp_path / "predictions.csv").write_text("path,split,task,truth,prediction,score,loss\n")
    check_results(tmp_path, names)
    (tmp_path / "predictions.csv").write_text("patient,prediction\n")
    with pytest.raises(UserError, match=r"predictions\.csv exists and is not from an earlier command"):
        check_results(tmp_path, names)


def test_predict_and_evaluate_keep_other_files(run: RunDirectory, command: Command, tmp_path: Path) -> None:
    image, output = write_image(tmp_path / "in" / "a.png"), tmp_path / "out"
    output.mkdir()
    (output / "predictions.csv").write_text("mine\n")
    for arguments in (["predict", f"input={image}"], ["evaluate", "split=val"]):
        message = command(*arguments, f"run={run.path}", f"output={output}").message
        assert message.startswith(f"{output / 'predictions.csv'} exists and is not from an earlier command")
    assert [path.name for path in output.iterdir()] == ["predictions.csv"]
    hidden = write_image(tmp_path / "hidden" / ".a.png").parent
    message = command("predict", f"run={run.path}", f"input={hidden}").message
    assert "has no images" in message and message.endswith(" left out: .a.png")


# ---- class names in a mapping


def test_pairs_of_names() -> None:
    assert read_pairs("{a b: c,d:null , 0: 'null', 'x:y,z': \"it's\", Vögel: 1e3}") == {
        "a b": "c", "d": None, "0": "null", "x:y,z": "it's", "Vögel": "1e3",
    }  # fmt: skip
    assert read_pairs("{}") == {} and read_pairs(r"{'it\'s': a}") == {"it's": "a"}
    assert read_pairs("{a}") is read_pairs("a: b") is read_pairs("{a: b") is None


def test_classes_with_any_name(run: RunDirectory, command: Command, tmp_path: Path) -> None:
    root = write_folders(tmp_path / "photos", ("Ziegel", "0", "null", "a:b"), count=1)
    mapping = "classes={Ziegel: brick, 0: grass, null: sky, 'a:b': null}"
    arguments = ["evaluate", f"run={run.path}", "split=all", f"data_root={root}"]
    outcome = command(*arguments, mapping, f"output={tmp_path / 'out'}")
    assert outcome.code == 0, outcome.err
    rows = (tmp_path / "out" / "predictions.csv").read_text().splitlines()[1:]
    truths = {row.split(",")[0]: row.split(",")[3] for row in rows}
    assert truths == {"0/00.png": "grass", normalized("Ziegel/00.png"): "brick", "null/00.png": "sky"}
    assert "note: classification: 1 labels of 'a:b' are left out (classes)" in outcome.out
    message = command(*arguments, "classes={Ziegel: stone}").message
    assert message == "classes: the run has no class 'stone'; it has brick, grass, sky"
    message = command(*arguments, "data_keys={batch_size: 0}").message
    assert message.startswith("data.batch_size=0: expected a whole number, 1 or more, got 0")
    (root / "0" / "bad.png").write_bytes(b"no image")
    assert "write data_keys='{on_bad_image: skip}':" in command(*arguments, mapping).message
    outcome = command(
        *arguments, "classes={Ziegel: brick, 0: sky, 'null': null, 'a:b': null}", "data_keys={on_bad_image: skip}"
    )
    assert "note: classification: the data lacks 1 of the classes of the run: grass" in outcome.out


# ---- runs, sweeps and processes


def test_runs_that_are_not_whole(run: RunDirectory, copy: RunDirectory, command: Command, tmp_path: Path) -> None:
    copy.config.write_text("")
    message = command("evaluate", f"run={copy.path}").message
    assert message.startswith(f"{copy.config} is damaged: it has no frozen_features. Restore it, or start a new run")
    copy.config.unlink()  # its checkpoints are worth something: do not advise to delete it
    assert command("evaluate", f"run={copy.path}").message.startswith(f"{copy.path} is not a run directory (it has no")
    text = run.config.read_text()
    root = next(line for line in text.splitlines() if line.startswith("  root: ")).partition(": ")[2]
    copy.config.write_text(text.replace(root, str(tmp_path / "gone")))
    message = command("evaluate", f"run={copy.path}", "split=val").message
    assert (
        message
        == f"data_root: the folder {tmp_path / 'gone'} does not exist. Write data_root=DIR with an existing one."
    )


def test_runs_of_the_same_name_have_paths(run: RunDirectory, tmp_path: Path) -> None:
    runs = [RunDirectory(shutil.copytree(run.path, tmp_path / sweep / "000")) for sweep in ("a", "b")]
    assert [row["run"] for row in table([read_run(run) for run in runs])] == [
        str(tmp_path / "a" / "000"),
        str(tmp_path / "b" / "000"),
    ]


def test_jobs_are_checked_together(tmp_path: Path) -> None:
    jobs = check_jobs("train", ["augment=glob(no*)", "seed=0,1"], None)
    assert [job.overrides for job in jobs] == [["augment=none", "seed=0"], ["augment=none", "seed=1"]]
    for overrides, message in (
        (
            ["data.folds=2", "data.fold=0,2"],
            "1 of 2 jobs are wrong, so none is started:\n  data.fold=2 data.folds=2: fo",
        ),
        (
            ["data=image_folder", f"data.root={tmp_path},nope"],
            "1 of 2 jobs are wrong, so none is started:\n  data.root: ",
        ),
        (["sweep_dir=a,b"], "sweep_dir has several values: a sweep has one directory; write one sweep_dir=DIR"),
        (["launcher=ray,slurm"], "launcher has several values: a sweep has one launcher; write one launcher=slurm"),
        (["launcher=ray", "launcher.cpus=1,2"], "launcher.cpus has several values: a sweep has one launcher; write "),
    ):
        with pytest.raises(UserError) as error:
            check_jobs("train", overrides, None)
        assert str(error.value).startswith(message)


def test_a_head_that_cannot_describe_a_prediction(
    run: RunDirectory, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("colour")

    monkeypatch.setattr(ClassificationHead, "describe", fail)
    outcome = command("evaluate", f"run={run.path}", "split=val", f"output={tmp_path}")
    assert (
        outcome.code == 0 and outcome.out.count("warning: predictions of classification have no text: KeyError: ") == 1
    )
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert len(rows) > 5 and all(row["prediction"] == "" and float(row["loss"]) > 0 for row in rows)


def test_a_terminal_that_nobody_reads(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    pipe = open(write, "w", buffering=1)  # noqa: SIM115  # closing it writes what is left, which fails
    with redirect_stdout(pipe), logging_to(tmp_path / "train.log"):
        log.info("one")
        log.info("two")
    with suppress(BrokenPipeError):
        pipe.close()
    assert capfd.readouterr().err == "" and (tmp_path / "train.log").read_text().count("\n") == 2


@pytest.mark.slow
def test_closed_streams_and_a_deleted_folder(tmp_path: Path) -> None:
    command = f"{sys.executable} -m visiontune"
    (tmp_path / "gone").mkdir()
    for line, code, text in (
        (f"{command} train seed=x 2>&1 >&-", 2, "error: seed=x: expected a whole number"),
        (f"{command} train {' '.join(TINY)} 'run_dir={tmp_path / 'run'}' >&- 2>&- <&-", 0, ""),
        (
            f"cd {tmp_path / 'gone'} && rmdir {tmp_path / 'gone'} && {command} plan 2>&1",
            2,
            "error: the current folder has",
        ),
    ):
        process = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
        assert process.returncode == code and process.stdout.startswith(text) and "Traceback" not in process.stdout
    assert RunDirectory(tmp_path / "run").finished
