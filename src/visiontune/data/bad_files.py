"""What happens to image files that cannot be used: `data.on_bad_image`."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from visiontune.data.text import is_unicode
from visiontune.errors import UserError, listed, pluralize, printable, some

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
            lines = listed([f"{path}: {problem}" for path, problem in sorted(problems.items())])
            count = pluralize(len(problems), "image", "images")
            raise UserError(
                f"{count} under {root} cannot be read; repair or remove, or write data.on_bad_image=skip:{lines}"
            )
        self.problems |= problems

    def notes(self) -> list[str]:
        """A note on the files that are left out."""
        if not self.problems:
            return []
        examples = [f"{path} ({problem})" for path, problem in sorted(self.problems.items())]
        count = pluralize(len(examples), "file", "files")
        return [f"{count} cannot be read, so their samples are left out (data.on_bad_image=skip): {some(examples)}"]


def check_names(root: Path, paths: Iterable[str]) -> None:
    """Raises UserError if a path is not UTF-8, since no table could name it."""
    bad = [printable(path) for path in paths if not is_unicode(path)]
    if bad:
        raise UserError(
            f"{pluralize(len(bad), 'file name is', 'file names are')} not UTF-8 under {root}; rename them, such as "
            f"with `convmv -f latin1 -t utf8`:{listed(sorted(bad))}"
        )
