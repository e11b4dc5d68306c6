"""The weights of models of Hugging Face transformers."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from torch import Tensor

from visiontune.errors import UserError, first_line
from visiontune.models.backbones.weight_folders import find_files
from visiontune.models.pretrained.transformers_eomt import rename_eomt
from visiontune.models.pretrained.weights import KEY, PretrainedWeights
from visiontune.models.transformers_library import import_transformers

FILES = ("config.json", "model.safetensors")
# `model_type` of a config.json -> the library's class.
MODELS = {
    "rt_detr_v2": {"detection": "RTDetrV2ForObjectDetection"},
    "d_fine": {"detection": "DFineForObjectDetection"},
    "eomt": {"segmentation": "EomtForUniversalSegmentation"},
    "rf_detr": {"detection": "RfDetrForObjectDetection", "instances": "RfDetrForInstanceSegmentation"},
}
# In RF-DETR-Seg the detection model is a part of the whole.
BACKBONE = re.compile(r"model\.backbone\.model\.|(model\.)?model\.backbone\.backbone\.")


class TransformersWeights(PretrainedWeights):
    """The weights in a repository of Hugging Face.

    Raises:
        UserError: transformers is missing or too old, or `pretrained.classes` has no class.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.name, self.repository, self.task = settings["name"], settings["repository"], settings["task"]
        self.source, self.size = f"Hugging Face {self.repository}", settings["size"]
        self.categories = list(settings["classes"] or ())
        if not self.categories:
            raise UserError(
                "pretrained.classes has no class: expected the classes of the weights in the order of their "
                "rows, such as pretrained.classes=[cat,dog]; leave it out for the published weights"
            )
        self.library = import_transformers(f"pretrained={self.name}")

    def is_cached(self) -> bool:
        return all(isinstance(try_to_load_from_cache(self.repository, file), str) for file in FILES)

    def download(self) -> dict[str, Tensor]:
        try:
            return self._read(self.repository, self.is_cached())
        except UserError:
            raise
        except Exception as error:  # of huggingface_hub, its HTTP client or transformers
            raise self.explain_download(error) from error

    def fetch(self) -> tuple[list[Path], list[str]]:
        try:
            return [Path(hf_hub_download(self.repository, file)) for file in FILES], []
        except Exception as error:  # of huggingface_hub or its HTTP client
            raise self.explain_download(error) from error

    def read(self, path: str) -> dict[str, Tensor]:
        """The tensors of a folder with a config.json and safetensors, or of a safetensors file in such a folder."""
        location = Path(path).expanduser()
        folder = location.parent if location.is_file() else location
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{KEY}={path}: no config.json there; write a folder with {' and '.join(FILES)}, as `hf download "
                f"{self.repository} --local-dir {self.name}` writes it"
            )
        find_files(folder, KEY)  # refuses damaged and missing files
        try:
            return self._read(str(folder), True)
        except UserError:
            raise
        except Exception as error:  # of safetensors or transformers
            raise UserError(f"{KEY}={path}: not a readable model ({first_line(error)[:200]})") from error

    def _read(self, source: str, local: bool) -> dict[str, Tensor]:
        config = self.library.AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=local)
        model_class = MODELS.get(config.model_type, {}).get(self.task)
        if model_class is None:
            raise UserError(
                f"{KEY}: {source} holds the model type {config.model_type}, which has no head for {self.task}; write "
                f"one of {', '.join(MODELS)}"
            )
        with _quiet(self.library):
            # The library renames tensors of older files, so that its model is filled first.
            model, loading = getattr(self.library, model_class).from_pretrained(
                source,
                config=config,
                output_loading_info=True,
                use_safetensors=True,
                local_files_only=local,
            )
        self.config = config
        absent = {*loading["missing_keys"]}
        return {name: value for name, value in model.state_dict().items() if name not in absent}

    def rename(self, state: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
        if self.config.model_type == "eomt":
            return rename_eomt(state, self.config.num_hidden_layers - self.config.num_blocks)
        # The files of RT-DETR and D-FINE have the output layers of the decoder twice; a FineTuner has them once.
        twice = any(name.startswith("model.decoder.class_embed.") for name in state)
        renamed = {}
        for name, value in state.items():
            if match := BACKBONE.match(name):
                renamed[f"backbone.model.{name[match.end() :]}"] = value
            elif not twice or name.startswith("model."):
                path = name.removeprefix("model.") if twice else name
                renamed[f"heads.{task}.detector.network.{path}"] = value
        return renamed


@contextlib.contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Without the progress bar and the warnings about tensors, which the report shows."""
    logging = library.utils.logging
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
