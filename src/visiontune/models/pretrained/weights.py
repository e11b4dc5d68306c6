"""What `load_pretrained` and `visiontune fetch` need to know about the weights of a library."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from visiontune.errors import UserError, first_line

KEY = "pretrained.weights"


class PretrainedWeights(ABC):
    """The weights of one model. Reading them runs no code.

    A subclass is built with the config's `pretrained`.

    Attributes:
        name: of the model.
        categories: its classes, in the order of their rows.
        source: where a download comes from, in words.
        size: of the download, in words.
    """

    name: str
    categories: list[str]
    source: str
    size: str

    @abstractmethod
    def is_cached(self) -> bool:
        """Whether the library's cache has the weights."""

    @abstractmethod
    def download(self) -> dict[str, Tensor]:
        """The tensors from the library's cache, or by a download into it whose hash is checked.

        Raises:
            UserError: the download failed, or a file in the cache is damaged.
        """

    @abstractmethod
    def fetch(self) -> tuple[list[Path], list[str]]:
        """The files in the library's cache, downloaded if they are not there; and notes about them.

        Raises:
            UserError: as `download`.
        """

    @abstractmethod
    def read(self, path: str) -> dict[str, Tensor]:
        """The tensors of a file or a folder.

        Raises:
            UserError: it does not exist, is damaged, or has another kind of content.
        """

    @abstractmethod
    def rename(self, state: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
        """The tensors of `download` or `read` under the names of a FineTuner with the head `task`."""

    def explain_download(self, error: Exception, alternative: str = "") -> UserError:
        """The error for a failed download.

        Args:
            alternative: another way to get the weights, in words that follow "or".
        """
        return UserError(
            f"{KEY}=default: the weights of {self.name} could not be downloaded ({first_line(error)[:300]}). On a "
            f"machine with a network run `visiontune fetch pretrained={self.name} output=DIR`, copy DIR here and write "
            f"{KEY}=DIR" + (f"; or {alternative}" if alternative else "")
        )
