"""The command line: `graftwork --help`."""

import gc
import json
import os
import re
import shlex
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from .training.interrupt import Stopped, raise_on_signal
from .validation.commands import app as validation

if TYPE_CHECKING:
    from .runs import Run

app = typer.Typer(
    help="Reinforcement-learning agents for PyTorch and Gymnasium.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(validation, name="validate")

RunDir = Annotated[str, typer.Argument(metavar="RUN", help="A run directory, such as runs/dqn-cartpole-0.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FIELD=VALUE]...", help="Such as seed=3 agent.discount=0.995 tracker=wandb."),
]
Profile = Annotated[
    bool, typer.Option("--profile", help="Trace some batches, for ui.perfetto.dev, and sum up, in RUN/profile.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 if all went well.

    Otherwise one line on stderr says why: 2 for bad input, 1 where an environment or the disk failed, 130 after SIGINT
    and 143 after SIGTERM. What no one foresaw keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows only ASCII gets ? for ±
    with raise_on_signal(), _one_line_warnings():
        status = _run(sys.argv[1:] if arguments is None else arguments)
    try:
        print(end="", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the flush at exit fails again, aloud
        if not isinstance(error, BrokenPipeError):  # a reader that has read enough
            status = status or _fail(f"standard output: {error.strerror}", 1)
    return status


# Whatever imports torch, which takes seconds, is imported inside a command: --help and list are instant.


@app.command()
def train(
    preset: Annotated[str, typer.Argument(metavar="PRESET|FILE", help="As `list` names it, or a YAML file.")],
    overrides: Overrides = None,
    profile: Profile = False,
) -> None:
    """Train from the beginning, in a new run directory.

    Fields that are often set: steps seed run_dir device tracker env.id env.num_envs agent.discount agent.learning_rate
    agent.encoder.kind evaluation.period; of tasks: epochs data.name task.encoder.kind task.learning_rate. The
    config.yaml of a run lists every field. Ctrl-C saves and ends.
    """
    with _without_collections():
        from . import runs

    _conclude(runs.train(preset, *(overrides or ()), profile=profile))


@app.command()
def resume(run: RunDir, overrides: Overrides = None, profile: Profile = False) -> None:
    """Continue a run as if it had never stopped; steps=... trains longer."""
    with _without_collections():
        from . import runs

    _conclude(runs.resume(run, *(overrides or ()), profile=profile))


@app.command()
def evaluate(
    run: RunDir,
    episodes: Annotated[int, typer.Option(help="Fresh episodes, acted greedily.")] = 100,
    seed: Annotated[int | None, typer.Option(help="That the episodes follow from; the run's if not given.")] = None,
    as_json: Json = False,
) -> None:
    """Play episodes that the run never saw, with its newest good checkpoint; or score a task on its test part."""
    with _without_collections():
        from . import runs, tasks

    result = runs.evaluate(run, episodes=episodes, seed=seed)
    if as_json:
        print(json.dumps(result.record()))
    elif isinstance(result, tasks.Scores):
        print(f"{result}\n\n{result.table()}")
    elif result.seeds:
        each = result.of_seeds
        means = [of_one.mean for of_one in each.values()]
        spread = f"of {len(means)} seeds from {min(means):.1f} to {max(means):.1f}"
        print(f"return {result.mean:.1f}, {spread}, over {episodes} episodes each (step {result.step:,})")
        print("\n".join(f"seed {seed}: {of_one.mean:.1f} ± {of_one.std:.1f}" for seed, of_one in each.items()))
    else:
        spread = f"from {min(result.returns):.1f} to {max(result.returns):.1f}"
        print(f"return {result.mean:.1f} ± {result.std:.1f} over {episodes} episodes, {spread} (step {result.step:,})")


@app.command("list")
def list_presets(as_json: Json = False) -> None:
    """Show what can be trained, a line each."""
    from .configs import presets

    found = presets().values()
    if as_json:
        print(json.dumps({"presets": [{"name": preset.name, "description": preset.description} for preset in found]}))
    else:
        width = max(len(preset.name) for preset in found)
        print("\n".join(f"{preset.name:{width}}  {preset.description}" for preset in found))


@app.command()
def report(
    run: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Run directories, seeds of one config sharing a line; or docs/validation."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="The picture of curves: RUN/curve.png for one run, else curves.png.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw learning curves; of a single run confusion matrices and layers too, and of stages print a table.

    Given the directory that `validate` writes to, such as docs/validation, make its page of it, index.html.
    """
    if len(run) == 1 and any((Path(run[0]) / name).exists() for name in ("returns", "parity.csv")):  # no run has them
        if output is not None:
            raise ValueError(f"--output={output}: the page of a validation goes into its directory; leave this out")
        from .validation.page import write_report

        written = [str(path) for path in write_report(Path(run[0]))]
        print(json.dumps({"page": written[0], "pictures": written[1:]}) if as_json else "\n".join(written))
        return
    from .reports import report

    made = report(run, output)
    print(json.dumps(made.record()) if as_json else made)


@app.command()
def verify(run: RunDir, as_json: Json = False) -> None:
    """Replay a run's first 100 updates, and say whether this machine comes to the same bits; exit status 1 if not."""
    with _without_collections():
        from . import runs

    verification = runs.verify(run)
    print(json.dumps(verification.record()) if as_json else verification)
    if not verification.reproduced:
        raise typer.Exit(1)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print(version("graftwork"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None: ...


def _conclude(run: "Run") -> None:
    """Say how the run ended and what can be done with it."""
    program, directory = _program(), shlex.quote(str(run.run_dir))
    if run.signal is not None:
        name = signal.Signals(run.signal).name
        where = f" of {[*run.stages][-1]}" if run.stages else ""
        _say(f"{name}: saved at step {run.step:,}{where}; `{program} resume {directory}` continues")
        raise typer.Exit(128 + run.signal)
    print(f"run     {run.run_dir}")
    for name, stage in run.stages.items():
        print(f"{name}: {stage.evaluation or 'done before'}")
    if run.stages:
        print(f"\n{program} report {directory}")
        return
    print(f"step    {run.step:,}")
    if run.evaluation is not None:
        print(f"result  {run.evaluation}")
    from .runs import RunConfig

    episodes = " --episodes 100" if isinstance(run.config, RunConfig) else ""
    print(f"\n{program} evaluate {directory}{episodes}")
    print(f"{program} resume {directory} {_longer(run)}")
    print(f"{program} report {directory}")


def _longer(run: "Run") -> str:
    """The override with which a resumed run goes on."""
    from .runs import RunConfig

    if isinstance(run.config, RunConfig):
        return f"steps={2 * run.config.steps}"
    if run.stopped_early and run.config.evaluation.patience is not None:
        return f"evaluation.patience={2 * run.config.evaluation.patience}"
    return f"epochs={2 * run.config.epochs}"


def _program() -> str:
    """What the user typed to get here, so that a command which is printed can be pasted."""
    called = sys.argv[0]
    if Path(called).stem != "graftwork":
        return "python -m graftwork"
    return "graftwork" if shutil.which("graftwork") == called else shlex.quote(called)


def _run(arguments: Sequence[str]) -> int:
    try:
        # Not app(...), which ends the process itself, on Ctrl-C too.
        with typer.main.get_command(app).make_context("graftwork", list(arguments)) as context:
            context.command.invoke(context)
        return 0
    except typer.Exit as exit_:
        return exit_.exit_code
    except _USAGE_ERROR as error:
        return _fail(_usage(error), 2)
    except KeyboardInterrupt as error:
        return _fail("interrupted", 128 + (error.number if isinstance(error, Stopped) else signal.SIGINT))
    except ValueError as error:
        return _fail(str(error), 1 if isinstance(error.__cause__, OSError) else 2)
    except BrokenPipeError:
        return 0  # whoever read our output has read enough, as `head` does
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except RuntimeError as error:
        from .envs import EnvironmentFailure

        if isinstance(error, EnvironmentFailure):
            return _fail(str(error), 1)
        raise


# click's UsageError: typer has it under no name of its own, and newer versions carry their own click.
_USAGE_ERROR: Any = typer.BadParameter.__bases__[0]


def _usage(error: Any) -> str:
    command = "graftwork" if error.ctx is None else error.ctx.command_path
    field = getattr(error, "option_name", "").lstrip("-")
    takes_fields = command.endswith((" train", " resume"))
    hint = f"; a field is set without dashes, {field}=VALUE" if field and takes_fields else ""
    return f"{error.format_message().rstrip('.')}{hint}; see `{command} --help`"


def _fail(text: str, status: int) -> int:
    _say(text)
    return status


def _say(text: str) -> None:
    with suppress(OSError):  # a terminal that was closed since; 2>&- closes it from the start
        if sys.stderr is not None:
            print("graftwork:", " ".join(text.split()), file=sys.stderr, flush=True)


@contextmanager
def _without_collections() -> Iterator[None]:
    """For the import of torch: what comes of it stays, and to look through it for garbage, again and again, takes a
    tenth of the time to the first step. Nor is it looked through afterwards."""
    if "torch" in sys.modules or not gc.isenabled():  # called from another program, whose garbage is its own affair
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # gymnasium tells of an error in a worker in three warnings, traceback and all; EnvironmentFailure says enough.
        warnings.filterwarnings("ignore", r"(\x1b\[\d+m)?ERROR: ")
        warnings.showwarning = _show_warning
        yield


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    _say("warning: " + re.sub(r"\x1b\[[0-9;]*m", "", str(message)))


if __name__ == "__main__":
    sys.exit(main())
