"""The `visiontune` command: a verb, then Hydra overrides.

`visiontune --help` answers at once, so Hydra and torch are imported in the functions that need them.
"""

import os
import signal
import sys
import traceback
from contextlib import redirect_stderr
from importlib import import_module
from importlib.metadata import version
from typing import Any

from visiontune.errors import UserError, shell_override, visible
from visiontune.signals import Interrupted, listen

VERBS = {
    "train": "fine-tune a network; `train -m` is a sweep, `train run=DIR` resumes a run",
    "plan": "print what `train` would do with the same overrides, and stop",
    "evaluate": "measure a run on a split: evaluate run=DIR [split=test] [checkpoint=best|last|PATH]",
    "predict": "use a run on images or a video: predict run=DIR input=FILE|FOLDER|VIDEO [output=DIR]",
    "export": "write a run's model as one file: export run=DIR format=onnx|torch_export",
    "compress": "make a run smaller and faster: compress run=DIR recipe=int8|qat|prune|sparsify|distill|small",
    "work": "one more worker for a sweep, and how a sweep is resumed: work SWEEP_DIR",
    "compare": "one table of a sweep or of any runs: compare DIR... [--test] [soup=greedy]",
    "fetch": "write pretrained weights into a folder: fetch pretrained=NAME|backbone=NAME output=DIR",
}
USAGE = (
    "visiontune VERB [overrides]\n\n"
    + "\n".join(f"  {verb:<9} {text}" for verb, text in VERBS.items())
    + "\n\n  visiontune VERB --help      the config groups and every key of a verb"
    + "\n  visiontune -sc install=bash|zsh|fish      the shell's completion script (docs/configuration.md)"
    + "\n  visiontune train data=image_folder data.root=PHOTOS strategy=gradual_unfreeze optimizer.lr=1e-3"
    + "\n\nExit codes: 0 done, 1 failed, 2 the config or the data is wrong (nothing was started),"
    + "\n128 + n stopped by signal n: 130 Ctrl-C, 143 SIGTERM, 138 SIGUSR1, 129 SIGHUP;"
    + "\n75 paused by checkpoints.pause_after; resume with train run=DIR."
)


def _run(verb: str, options: list[str], overrides: list[str]) -> None:
    """Run `visiontune.VERB.main(cfg)` as a Hydra application; the module is imported after the config is composed."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from visiontune.config.compose import MAIN, config_dir
    from visiontune.config.imports import import_verb

    errors: list[Exception] = []
    typed = sys.argv

    @hydra.main(config_path=str(config_dir()), config_name="train" if verb == "plan" else verb, **MAIN)
    def application(cfg: Any) -> object:
        sys.argv = typed
        try:
            run_verb = import_verb(verb).main
            if verb not in ("train", "plan"):  # `resolve` checks the config of these two
                cfg = import_module("visiontune.config.check").check(verb, cfg)
            with listen():  # a launcher may run a job in another process
                return run_verb(cfg)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # Hydra runs the other jobs first
            errors.append(error)  # raised below, since Hydra would print one more line
            return None

    sys.argv = [typed[0], *options, *overrides]  # Hydra reads it
    try:
        application()
    finally:
        sys.argv = typed
    if errors:
        raise errors[0]


def _run_verb(verb: str, arguments: list[str]) -> None:
    """Run a verb once, or once for each job of a sweep.

    Raises:
        UserError: an override is wrong; nothing has been started.
    """
    from visiontune.config.options import split_options
    from visiontune.config.overrides import prepare
    from visiontune.config.renamed import accept_old_keys, check_overrides

    options, overrides = split_options(verb, arguments)
    if verb not in ("train", "plan") and (wrong := [item for item in overrides if item.startswith("debug=")]):
        raise UserError(f"{wrong[0]}: expected true or false; write debug=true")
    check_overrides(overrides)
    multirun = options.multirun or "hydra.mode=MULTIRUN" in overrides
    _check_single_values(verb, overrides, multirun or options.prints)
    overrides, notes = accept_old_keys(verb, overrides)
    print("".join(f"{note}\n" for note in notes), end="", file=sys.stderr)
    if multirun and verb == "train":
        _check_sweep_keys(overrides)
    overrides = prepare(verb, overrides, multirun)
    if not multirun or options.prints:
        _run(verb, options.arguments, overrides)
        return
    if verb == "train":
        import_module("visiontune.config.imports").import_verb(verb)
        _run(verb, ["-m", *options.arguments], overrides)
        return
    from visiontune.config.jobs import check_jobs, describe

    for number, (job, *_) in enumerate(check_jobs(verb, overrides, options.config_dir)):
        print(("\n" if number else "") + describe(job, overrides), flush=True)
        _run(verb, options.arguments, [*job, f"hydra.job.num={number}"])


def _check_single_values(verb: str, overrides: list[str], multirun: bool) -> None:
    """Refuse overrides that would have no effect: the first of two inputs, and groups of sweeps without `-m`.

    Raises:
        UserError: the message says what to write instead.
    """
    for key in ("run", "input"):
        typed = [override for override in overrides if override.startswith(f"{key}=")]
        if len(typed) > 1:
            raise UserError(f"{typed[0]} {typed[1]}: expected one {key}; write {typed[-1]}, or one command for each")
    for override in overrides:
        is_of_sweep = override.startswith(("sweep=", "launcher=")) and override != "sweep=null"
        if is_of_sweep and verb in ("train", "plan") and not multirun:
            raise UserError(f"{override} needs -m: write visiontune {verb} -m {override}")


def _check_sweep_keys(overrides: list[str]) -> None:
    """Refuse keys of a single run in a sweep.

    Raises:
        UserError: the message says what to write instead.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "run_dir":
            raise UserError(
                f"{override}: the runs of a sweep are in numbered directories of one folder; write "
                f"{shell_override('sweep_dir', value)}"
            )
        if key.startswith(("hydra/launcher", "hydra.launcher")):
            raise UserError(f"{override}: sweeps use no launcher of Hydra; write launcher=local, slurm or ray")
        if key == "run":
            raise UserError(f"{override}: -m starts new runs; resume one run at a time with visiontune train run=DIR")


def _complete(request: str) -> None:
    """Shell completion: `install=SHELL` and `uninstall=SHELL` print Hydra's script, which calls `query=SHELL`.

    Hydra's script expects one application per command, so the verb is removed from the line that it completes.
    """
    action, _, shell = request.partition("=")
    if action not in ("install", "uninstall", "query") or shell not in ("bash", "zsh", "fish"):
        raise UserError(f"-sc {request}: write -sc install=bash, install=zsh or install=fish")
    verb = "train"  # every verb has the same script
    if action == "query":
        _, _, typed = os.environ.get("COMP_LINE", "").lstrip().partition(" ")
        verb, space, rest = typed.lstrip().partition(" ")
        if not space:
            print("\n".join(name for name in VERBS if name.startswith(verb)))
            return
        if verb not in VERBS or verb in ("compare", "work"):  # the shell completes file names
            return
        os.environ["COMP_LINE"] = f"visiontune {rest.lstrip()}"
    sys.argv = ["visiontune"]
    with open(os.devnull, "w") as devnull, redirect_stderr(devnull):  # an incomplete option is not an error
        _run(verb, ["-sc"], [request])


def main() -> None:
    """Run one verb; turn every exception and signal into an exit code and a message."""
    try:
        with listen():
            _main()
    except Interrupted as interruption:
        print(f"stopped by {interruption}", file=sys.stderr)
        sys.exit(interruption.exit_code)


def _main() -> None:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return
    if arguments[0] == "--version":
        print(version(__package__))
        return
    verb, *overrides = arguments
    if verb in ("train", "plan"):  # `debug` is a config group of these two
        flags = {"debug=true": "debug=traceback", "debug=false": "debug=none"}
        overrides = [flags.get(override.lower(), override) for override in overrides]
        debug = "debug=traceback" in overrides
    else:  # Hydra would read it as an option of that group
        debug = any(override.lower() == "debug=true" for override in overrides)
        overrides = [override for override in overrides if override.lower() not in ("debug=true", "debug=false")]
    # With this variable Hydra raises errors. Otherwise it prints them and exits with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [f"visiontune {verb}", *overrides]
    try:
        try:
            folder = os.getcwd()
        except FileNotFoundError:
            raise UserError("the current folder has been deleted: change to another one with cd") from None
        if folder not in sys.path:  # a `_target_` may name a module here; last, so that it hides no installed one
            sys.path.append(folder)
        if verb in ("-sc", "--shell-completion"):
            _complete("".join(overrides))
            return
        if verb not in VERBS:
            raise UserError(f"there is no command {verb!r}: write one of {', '.join(VERBS)}")
        if verb in ("compare", "work"):  # they take folders
            import_module(f"visiontune.{verb}").main(overrides)
        else:
            _run_verb(verb, overrides)
    except KeyboardInterrupt:  # in a thread that cannot handle signals
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # the reader of stdout has closed it, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        from visiontune.config.messages import describe_error, raise_interruption

        if debug:
            traceback.print_exc()
        raise_interruption(error)
        message, code = describe_error(error, verb, overrides)
        print(f"error: {visible(message, 20_000)}", file=sys.stderr)
        sys.exit(code)
