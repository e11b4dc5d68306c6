"""Shell completion, the home folder in paths, and `trust=true`."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import Command

BASH = shutil.which("bash")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("", {"train", "plan", "evaluate", "predict", "export", "compress", "compare", "fetch", "work"}),
        ("tr", {"train"}),
        (
            "train strategy=l",
            {f"strategy={name}" for name in ("last_k", "layer_decay", "linear_probe", "lora", "lp_ft")},
        ),
        ("  train -m   sweep=f", {"sweep=folds", "sweep=full"}),
        ("plan scheduler=step scheduler.mi", {"scheduler.milestones."}),
        ("evaluate run=x sp", {"split="}),
        ("predict run=x im", {"images="}),
        ("compare lo", set()),  # the shell completes file names
        ("trian st", set()),
        ("train --conf", set()),
    ],
)
def test_completion_offers(line: str, offered: set[str], command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for shell in ("bash", "fish"):
        monkeypatch.setenv("COMP_LINE", f"visiontune {line}")
        outcome = command("-sc", f"query={shell}")
        assert set(outcome.out.split()) == offered and outcome.err == ""


def test_completion_offers_files(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.setenv("COMP_LINE", f"visiontune train data=image_folder data.root={tmp_path}/ph")
    assert command("-sc", "query=bash").out.split() == [f"data.root={tmp_path}/photos"]


@pytest.mark.skipif(BASH is None, reason="there is no bash")
def test_bash_completes(tmp_path: Path) -> None:
    """bash evaluates the script, with a command `visiontune` on the path."""
    executable = tmp_path / "visiontune"
    executable.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "from visiontune.cli import main; main()" "$@"\n')
    executable.chmod(0o755)
    script = """
        PATH="$1:$PATH"
        eval "$(visiontune -sc install=bash)"
        complete -p visiontune
        COMP_LINE="visiontune train optimizer=ada" COMP_CWORD=2
        hydra_bash_completion
        echo "${COMPREPLY[@]}"
    """
    arguments = [str(BASH), "-c", script, "bash", str(tmp_path)]
    process = subprocess.run(arguments, capture_output=True, text=True, check=True)
    rule, reply = process.stdout.splitlines()
    assert rule.endswith("-F hydra_bash_completion visiontune")
    assert reply.split() == ["optimizer=adam", "optimizer=adamw"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_this_command(shell: str, command: Command) -> None:
    for action in ("install", "uninstall"):
        assert command("-sc", f"{action}={shell}").code == 0
    assert "visiontune" in command("-sc", f"install={shell}").out.splitlines()[-2 if shell == "fish" else -1]


@pytest.mark.parametrize("request_", ["install=tcsh", "install", "", "remove=bash"])
def test_a_wrong_request(request_: str, command: Command) -> None:
    message = command("-sc", *([request_] if request_ else [])).message
    assert message == f"-sc {request_}: write -sc install=bash, install=zsh or install=fish"


def test_the_home_folder_is_expanded(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: list[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    outcome = command("plan", *small, "data=image_folder", "data.root=~/photos")
    assert outcome.message.startswith(f"data.root: the folder {tmp_path / 'photos'} does not exist.")
    outcome = command("plan", *small, "~callbacks.first_batch", "run_dir=~/run")
    assert outcome.out.rstrip().endswith(str(tmp_path / "run"))


@pytest.mark.slow
def test_a_run_with_foreign_classes_resumes_with_trust(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: list[str]
) -> None:
    (tmp_path / "elsewhere.py").write_text("import lightning\n\n\nclass Quiet(lightning.Callback):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    run_dir = tmp_path / "run"
    assert command("train", *tiny, "+callbacks.mine._target_=elsewhere.Quiet", f"run_dir={run_dir}").code == 0
    for arguments in ([f"run={run_dir}", "trainer.max_epochs=2"], [*tiny, f"weights_from={run_dir}"]):
        message = command("train", *arguments).message
        assert message.startswith("the run's config names callbacks.mine._target_=elsewhere.Quiet, which is outside")
        assert command("train", *arguments, "trust=true", "debug=true").run.read_status()["status"] == "finished"
