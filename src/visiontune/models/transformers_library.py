"""Import Hugging Face transformers, which is optional and slow to import."""

import importlib
import importlib.metadata
import logging
from typing import Any

from visiontune.errors import UserError

MINIMUM = (5, 18)  # earlier releases count the denoising queries of RT-DETR and D-FINE twice in the loss


def import_transformers(purpose: str, module: str = "transformers") -> Any:
    """The module `transformers`, or one of its modules.

    Args:
        purpose: the key and value that need it, for the message.

    Raises:
        UserError: it is not installed, or too old.
    """
    minimum = ".".join(map(str, MINIMUM))
    install = f"install it with: pip install 'transformers>={minimum}'"
    try:
        version = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{purpose} needs the package transformers, which is not installed; {install}") from None
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM:
        raise UserError(f"{purpose} needs transformers {minimum} or newer, and {version} is installed; {install}")
    # transformers imports torchao if it is installed, and torch then logs a warning about the code of torchao.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    return importlib.import_module(module)
