"""Rename a clone of this template: package, command, configs, tests and docs.

python scripts/rename.py birdwatch
"""

import keyword
import re
import subprocess
import sys
from pathlib import Path

OLD = "visiontune"
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        sys.exit(
            f"error: {name!r} is no package name; write lower-case letters, digits and _: make rename NAME=birdwatch"
        )
    if name == OLD:
        return
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
    )
    if tracked.returncode != 0:
        sys.exit(f"error: {tracked.stderr.decode().strip()}; in a copy without git, run `git init` first")
    for relative in filter(None, tracked.stdout.decode().split("\0")):
        path = ROOT / relative
        if path.is_symlink() or not path.is_file():
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # an image
        renamed = text.replace(OLD, name).replace(OLD.upper(), name.upper())
        if renamed != text:
            path.write_text(renamed)
    (ROOT / "src" / OLD).rename(ROOT / "src" / name)
    plugins = ROOT / "src" / "hydra_plugins"
    (plugins / f"{OLD}_sweeper.py").rename(plugins / f"{name}_sweeper.py")
    # Lines have another length, and imports another order. A text that is too long now stays, and gets a noqa.
    for action in ("check --select I --fix -q", "format -q", "check --select E501 --add-noqa -q"):
        subprocess.run([sys.executable, "-m", "ruff", *action.split(), "."], cwd=ROOT, check=False)
    ready = ROOT / ".venv" / ".ready"
    ready.unlink(missing_ok=True)  # `make setup` installs the package again, under the new name
    print(f"{OLD} is now {name}: the next make target installs it; `git diff` shows what changed")


if __name__ == "__main__":
    main()
