"""Import Hugging Face transformers, which is optional and slow to import."""

import importlib
import importlib.metadata
import logging
import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches
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
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < MINIMUM:  # 6.0rc1 is a version, too
        raise UserError(f"{purpose} needs transformers {minimum} or newer, and {version} is installed; {install}")
    # transformers imports torchao if it is installed, and torch then logs a warning about the code of torchao.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    return importlib.import_module(module)


def check_arguments(names: Iterable[str], known: Collection[str], key: str, owner: str) -> None:
    """Refuse arguments that a config of transformers does not have.

    Args:
        key: of the arguments in our config, for the message.
        owner: what has the arguments, for the message.

    Raises:
        UserError: the message has the first of them, and similar arguments.
    """
    for name in names:
        if name not in known:
            near = ", ".join(f"{key}.{match}" for match in get_close_matches(name, sorted(known), cutoff=0.5))
            raise UserError(
                f"{key}.{name}: {owner} has no such argument; " + (f"near it: {near}" if near else f"leave {name} out")
            )
