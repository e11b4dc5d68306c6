"""Check limits that keep the code easy to read: files at the top, long files, abstract methods, words to avoid.

python scripts/house.py            # print the counts; exit code 1 if a limit is exceeded
python scripts/house.py --words    # also print the words to avoid, with file and line
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = next(folder.parent for folder in sorted((ROOT / "src").glob("*/cli.py")))
TOP_FILES, FILE_LINES, FINETUNER_LINES, HEAD_METHODS, README_LINES = 16, 250, 150, 12, 200

NAMES = re.compile(
    r"(found|said|given|taken|tried|dealt|taught|own|one|picked|spoiled|alone|lost|ways|finest|reached|continued"
    r"|derived|concluded|as_it_is|by_class|resamples|_seen|go_on|going_on|Failed|of_its_version)"
    r"|.*_apart|.*_of|.*[pP]ictures?(_.*)?|.*(?<![a-z])thaw(s|ed|ing)?(_.*)?"
)
PHRASES = re.compile(
    r"\b(pictures?|thaw(s|ed|ing)?|spoiled|go(es|ing)? on|loader process(es)?|is no key|wants another|looked at"
    r"|so many are|none of its own|made anew|of its own)\b",
    re.IGNORECASE,
)
FOREIGN = {"one_of", "is_instance_of"}  # names of libraries
MESSAGES = {"UserError", "RunError", "RuntimeError", "ValueError", "info", "warning", "print", "warn"}


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that the code defines, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def messages(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every text that a user may see: raised, logged or printed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in MESSAGES:
                for part in ast.walk(node):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield part.lineno, part.value


def words(path: Path) -> Iterator[str]:
    """`FILE:LINE WORD` of every name and message with a word to avoid."""
    tree = ast.parse(path.read_text())
    relative = path.relative_to(ROOT)
    for line, name in names(tree):
        if NAMES.fullmatch(name) and name not in FOREIGN:
            yield f"{relative}:{line} {name}"
    for line, text in messages(tree):
        for match in PHRASES.finditer(text):
            yield f"{relative}:{line} {match[0]!r} in a message"


def methods(path: Path, name: str) -> list[str]:
    """The public methods of a class."""
    tree = ast.parse(path.read_text())
    cls = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)
    return [part.name for part in cls.body if isinstance(part, ast.FunctionDef) and not part.name.startswith("_")]


def main() -> None:
    sources = sorted(PACKAGE.rglob("*.py"))
    lengths = {path: len(path.read_text().splitlines()) for path in sources}
    longest = max(lengths, key=lambda path: lengths[path])
    type_checking = [line for path in sources for line in path.read_text().splitlines() if "TYPE_CHECKING" in line]
    words_to_avoid = [line for path in sources for line in words(path)]
    rows = [
        ("files at the top of the package", len(list(PACKAGE.glob("*.py"))), TOP_FILES),
        (f"lines of the longest file, {longest.relative_to(ROOT)}", lengths[longest], FILE_LINES),
        ("lines of the FineTuner's file", lengths[PACKAGE / "models" / "finetuner.py"], FINETUNER_LINES),
        ("methods of Head", len(methods(PACKAGE / "models" / "heads" / "base.py", "Head")), HEAD_METHODS),
        ("imports under TYPE_CHECKING", len(type_checking), 0),
        ("lines of README.md", len((ROOT / "README.md").read_text().splitlines()), README_LINES),
        ("words to avoid in names and messages", len(words_to_avoid), 0),
    ]
    for text, count, limit in rows:
        print(f"{count:6}  of at most {limit:4}  {text}")
    print(f"{sum(lengths.values()):6}  lines of code in {len(sources)} files")
    if words_to_avoid and "--words" in sys.argv:
        print("\n".join(words_to_avoid))
    sys.exit(any(count > limit for _, count, limit in rows))


if __name__ == "__main__":
    main()
