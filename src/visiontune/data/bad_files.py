"""What happens to image files that cannot be used: `data.on_bad_image`."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from visiontune.data.text import is_unicode
from visiontune.errors import UserError, listed, printable, some

POLICIES = ("error", "skip")


class BadFiles:
    """Collects the images and masks of a data set that cannot be read.

    Args:
        policy: `error`: they are an error. `skip`: their samples are left out, and `notes` says so.
    """

    def __init__(self, policy: str = "error") -> None:
        if policy not in POLICIES:
            raise UserError(f"data.on_bad_image={policy}: write one of {', '.join(POLICIES)}")
        self.policy = policy
        self.problems: dict[str, str] = {}  # path -> reason

    def record(self, root: Path, problems: Mapping[str, str]) -> None:
        """Record files under `root`: path -> reason.

        Raises:
            UserError: there are some and the policy is `error`; lists the first ten.
        """
        if problems and self.policy == "error":
            count = "1 image" if len(problems) == 1 else f"{len(problems)} images"
            lines = listed([f"{path}: {problem}" for path, problem in sorted(problems.items())])
            raise UserError(
                f"{count} under {root} cannot be read; repair or remove, or write data.on_bad_image=skip:{lines}"
            )
        self.problems |= problems

    def notes(self) -> list[str]:
        """A note on the files that are left out."""
        if not self.problems:
            return []
        examples = [f"{path} ({problem})" for path, problem in sorted(self.problems.items())]
        count = "1 file" if len(examples) == 1 else f"{len(examples)} files"
        return [f"{count} cannot be read, so their samples are left out (data.on_bad_image=skip): {some(examples)}"]


def check_names(root: Path, paths: Iterable[str]) -> None:
    """Raises UserError if a path is not UTF-8, since no table could name it."""
    bad = [printable(path) for path in paths if not is_unicode(path)]
    if bad:
        raise UserError(
            f"{len(bad)} file names under {root} are not UTF-8; rename them, such as with `convmv -f latin1 -t utf8`:"
            f"{listed(sorted(bad))}"
        )
