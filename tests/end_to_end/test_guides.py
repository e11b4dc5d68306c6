"""Each guide in docs/guides works: its commands run in a copy of the project with its files."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import TINY

from visiontune.config.compose import config_dir

ROOT = config_dir().parent
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
SHORT = [override for override in TINY if not override.startswith("logger")]
TOPICS = {"callback", "dataset", "head", "logger", "loss", "metric", "optimizer", "strategy"}


def files(guide: Path) -> dict[str, str]:
    """Path -> content of every file that a guide shows: a block under a line "`PATH`:"."""
    blocks = re.findall(r"^`([^`\n]+)`:\n```(?:yaml|python)\n(.*?)^```", guide.read_text(), re.M | re.S)
    return dict(blocks)


def commands(guide: Path) -> list[list[str]]:
    """The words of every line of the ```bash blocks."""
    blocks = re.findall(r"^```bash\n(.*?)^```", guide.read_text(), re.M | re.S)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line.strip()]


def test_there_is_a_guide_for_each_topic() -> None:
    assert {guide.stem for guide in GUIDES} == TOPICS


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_a_guide_is_short_and_touches_at_most_two_files(guide: Path) -> None:
    assert len(guide.read_text().splitlines()) <= 40
    assert 1 <= len(files(guide)) <= 2
    assert all(path.split("/")[0] in ("src", "configs") for path in files(guide))
    assert any(words[:2] == ["visiontune", "train"] for words in commands(guide))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the files of every guide."""
    copy = tmp_path_factory.mktemp("project")
    for folder in ("src", "configs"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for guide in GUIDES:
        for path, content in files(guide).items():
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            (copy / path).write_text(content)
    return copy


# One process for all commands, since importing torch takes longer than the commands.
RUN_ALL = """
import json, sys
from visiontune import cli
for words in json.load(sys.stdin):
    sys.argv = words
    print("$", *words, flush=True)
    cli.main()
"""


@pytest.mark.slow
def test_the_commands_of_all_guides_run_in_a_copy(project: Path) -> None:
    words = [line for guide in GUIDES for line in commands(guide) if line[1] in ("train", "plan")]
    lines = [[*line, *(key for key in SHORT if key.split("=")[0] not in " ".join(line))] for line in words]
    process = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps(lines),
        env={**os.environ, "PYTHONPATH": str(project / "src"), "VISIONTUNE_LOGS": str(project / "logs")},
        cwd=project,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-2000:]
    trained = [words for words in lines if words[1] == "train"]
    statuses = [path.read_text() for path in (project / "logs").rglob("status.json")]
    assert len(statuses) == len(trained) and all('"finished"' in status for status in statuses)
