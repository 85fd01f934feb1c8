"""Whether this machine comes to the same bits as the one that a run began on."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..configs.yaml_text import Value, one_line
from ..engine import NonFiniteError, PriorityError
from ..envs import EnvironmentFailure, NonFiniteEnvError
from ..envs.address import AnyEnv
from ..networks import Encoder, Network
from ..tasks import Data, as_dataset
from ..training.progress import Progress
from .build import device_of, numerics
from .config import AnyRunConfig, RunConfig
from .machine import machine_of
from .parts import Objects, Parts
from .receipt import RECEIPT, Receipt, Row, Updates, deciding, read_receipt
from .resolve import recorded
from .run import source_of
from .session import CONFIG, build


@dataclass(frozen=True)
class Verification:
    """What replaying the updates of a receipt came to."""

    updates: int  # that the receipt tells of
    step: int  # of the run, after them
    difference: str | None  # the first one, in words; None: there is none, to the last bit
    changes: Mapping[str, tuple[str, str]]  # of versions, processor, threads and device: before, now
    hint: str = ""  # what else may have made the difference

    @property
    def reproduced(self) -> bool:
        return self.difference is None

    def record(self) -> dict[str, object]:
        """Plain values."""
        return {
            "reproduced": self.reproduced,
            "updates": self.updates,
            "step": self.step,
            "difference": self.difference,
            "changes": {name: list(pair) for name, pair in self.changes.items()},
        }

    def __str__(self) -> str:
        changes = ", ".join(f"{name} was {before}, is {now}" for name, (before, now) in self.changes.items())
        if self.reproduced:
            which = f"the first {self.updates} updates" if self.updates > 1 else "the first update"
            said = f"reproduced: {which} (to step {self.step:,}) came to the same bits"
            return f"{said}, though {changes}" if changes else said
        return f"not reproduced: {self.difference} ({changes or f'same versions, processor and threads{self.hint}'})"


def verify(
    run_dir: str | Path,
    *,
    env: Callable[[], AnyEnv] | None = None,
    wrapper: Callable[[AnyEnv], AnyEnv] | None = None,
    encoder: Encoder | None = None,
    network: Network[Any] | None = None,
    data: Data | None = None,
    quiet: bool = False,
) -> Verification:
    """Whether the first 100 updates of a run come to the same bits here as they did where it began.

    They are made again from the run's config and seed, with its device and number of threads where they are there, and
    compared with the run's receipt; the run itself is only read, and what is given is left as it is. A run with objects
    from Python needs them again, `encoder` and `network` with the weights that they began with.

    Raises ValueError in one line for a run that has no receipt, or no update in it, and for a config.yaml that is not
    the run's any more.
    """
    objects = Objects(env, wrapper, deepcopy(encoder), deepcopy(network), None if data is None else as_dataset(data))
    directory, config = recorded(run_dir, (), objects)
    receipt = read_receipt(directory / RECEIPT)
    if not receipt.is_overridden:
        _refuse_altered(directory / CONFIG, receipt.run_config(), config)
    if not receipt.updates:
        raise ValueError(f"{directory / RECEIPT} has no update yet: the run made none up to step {receipt.step:,}")
    machine, last = receipt.machine, receipt.updates[-1]
    own = receipt.run_config(steps=last.step).model_copy(
        update={"device": _nearest_device(machine.device), "threads": machine.threads}
    )
    source = source_of(own, objects)
    parts = build(own, objects, source)
    try:
        with numerics(machine.threads), Progress(last.step, quiet=quiet) as progress:
            difference = _difference(receipt, parts, progress)
            changes = machine.changes(machine_of(own, device_of(own), torch.get_num_threads()))
    finally:
        parts.close()
    return Verification(last.updates, last.step, difference, changes, _hint(own))


def _difference(receipt: Receipt, parts: Parts, progress: Progress) -> str | None:
    """The first, in words."""
    updates, total = Updates(parts.learner), receipt.updates[-1].updates
    if updates.weights() != receipt.weights_before:
        return "the weights before the first update are others"
    before = 0
    for row in receipt.updates:
        name = _name(before + 1, row, total)
        try:
            found = _next(updates, parts, row.step, progress)
        except (NonFiniteError, NonFiniteEnvError, PriorityError, EnvironmentFailure) as error:
            return f"{name}, failed: {one_line(str(error), 200)}"
        if found != row:
            return f"{name}, is another" if before + 1 == row.updates else f"{name}, came to something else"
        before = row.updates
    if updates.weights() != receipt.weights_after:
        return f"the weights after update {total} of {total} are others"
    return None


def _next(updates: Updates, parts: Parts, step: int, progress: Progress) -> Row | None:
    """Train until there is one more row; None if there is none up to `step`."""
    source, learner, count = parts.source, parts.learner, len(updates.rows)
    while len(updates.rows) == count and source.num_steps < step:
        batch = source.next()
        updates.note(source.num_steps, learner.learn(batch))
        episodes = source.finished()
        progress.update(source.num_steps, episodes[-1].return_ if episodes else None)
    return updates.rows[-1] if len(updates.rows) > count else None


def _name(first: int, row: Row, total: int) -> str:
    which = f"update {first}" if first == row.updates else f"one of updates {first} to {row.updates}"
    return f"{which} of {total}, at step {row.step:,}"


def _nearest_device(name: str) -> str:
    """The device if it is there, or else what comes closest."""
    if name == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return name if (torch.device(name).index or 0) < torch.cuda.device_count() else "cuda"


def _hint(config: AnyRunConfig) -> str:
    """Where to look, if nothing that a receipt tells of has changed."""
    if config.objects:
        return f"; look at the {', '.join(config.objects)} given in Python"
    if config.graft.run is not None:
        return f"; graft.run={config.graft.run} may have learnt since"
    if config.device != "cpu":
        return "; some of a GPU's kernels add in no fixed order"
    return (
        "; is the environment determined by its seed?" if isinstance(config, RunConfig) else "; are the data the same?"
    )


def _refuse_altered(path: Path, began: AnyRunConfig, config: AnyRunConfig) -> None:
    """Raise ValueError that names a field which the updates follow from, and which is not as it was."""
    before, now = (dict(_fields(deciding(each))) for each in (began, config))
    for name in before | now:
        was, is_ = before.get(name), now.get(name)
        if was != is_:
            raise ValueError(
                f"{path} was altered: {name} is {one_line(is_)}, but the run began with {one_line(was)}; put it back"
            )


def _fields(tree: Mapping[str, Any], owner: str = "") -> list[tuple[str, Value]]:
    """Values by dotted name."""
    found: list[tuple[str, Value]] = []
    for key, value in tree.items():
        found += _fields(value, f"{owner}{key}.") if isinstance(value, dict) and value else [(f"{owner}{key}", value)]
    return found
