"""Export a run's model as one file with pre-processing and decoding inside, and compare it with the model."""

from pathlib import Path

from omegaconf import DictConfig

from visiontune.config.derive import derive
from visiontune.deployment.files import NAMES, OPEN, write
from visiontune.deployment.graph import build_graph
from visiontune.deployment.verification import verify
from visiontune.errors import UserError, rename_keys, shell_override
from visiontune.runs.files import temporary_path, write_bytes
from visiontune.runs.links import check_links
from visiontune.runs.log import logging_to
from visiontune.runs.output import check_output
from visiontune.training.build import build_data
from visiontune.training.load import open_run
from visiontune.training.resume import resume_command


def main(cfg: DictConfig) -> Path:
    """Write the file and verify it; return its path. A file that disagrees with the model is deleted."""
    run, run_cfg = open_run(cfg.run, cfg.trust)
    if run_cfg.get("backend"):
        raise UserError(
            f"the model of {run.path} is already an exported file: copy {run.exports}, or export the run that it was "
            f"compressed from with {shell_override('run', run_cfg.compressed_from)}"
        )
    if cfg.checkpoint is None and (status := run.read_status()["status"]) != "finished":
        raise UserError(f"{run.path} is {status}: resume it with {resume_command(run)}, or write checkpoint=best")
    if cfg.output is None and not cfg.trust:
        check_links(run.path, run.exports)
    output = check_output(Path(cfg.output) if cfg.output else run.exports)
    if cfg.data_root is not None:
        run_cfg = derive(run_cfg, {"data.root": cfg.data_root})
    with logging_to(None, quiet=True):
        with rename_keys({"data.root": "data_root"}):
            data = build_data(run_cfg, download=cfg.trust)
        data.assign_as(run.splits)
        graph, model = build_graph(run, run_cfg, cfg.checkpoint or "best")
    output.mkdir(parents=True, exist_ok=True)
    path = output / NAMES[cfg.format]
    with temporary_path(path) as temporary:
        write(graph, temporary, cfg.format)
        batches = map(data.to_network, data.eval_loader(cfg.split, at_most=cfg.images, original_images=True))
        count, worst = verify(OPEN[cfg.format](temporary), model, batches)
    if cfg.format == "onnx":
        script = Path(__file__).parent / "deployment" / "run_onnx.py"
        write_bytes(output / script.name, script.read_bytes())
    size = path.stat().st_size / 1e6
    print(f"{size:.1f} MB; verified on {count} images of {cfg.split}, largest relative difference {worst:.1g}")
    print(path)
    return path
