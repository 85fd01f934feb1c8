"""A run's receipt: what its first gradient updates came to, to the last bit, and what they were computed with."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, JsonValue, ValidationError, model_validator
from torch import Tensor

from ..configs import ConfigError
from ..configs.config import Config
from ..training.durable import write_text
from ..training.state_tree import tensor_bytes
from .config import AnyRunConfig, NonNegative, Positive, run_config
from .machine import Machine
from .parts import NetworkLearner

RECEIPT = "receipt.json"
NUM_UPDATES = 100  # that it tells of, and those that the last of their calls to learn made beyond

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]

# Fields that say how long, where to, and what is looked at meanwhile: no update depends on them.
_IDLE = {"steps", "epochs", "run_dir", "tracker", "wandb", "evaluation", "checkpoint", "log"}


class Row(NamedTuple):
    """A call to learn that updated the network."""

    updates: Positive  # gradient updates from the run's beginning to its end
    step: Positive
    digest: Digest  # of its metrics


class Receipt(Config):
    """What `receipt.json` holds."""

    format: Literal[1] = 1
    config: dict[str, JsonValue]  # fields that the updates follow from, see deciding
    is_overridden: bool = False  # the run was resumed with other such fields: config.yaml has those
    machine: Machine
    step: NonNegative  # of the run, up to which the updates are told of; of a complete one, the last of them
    weights_before: Digest
    updates: tuple[Row, ...] = ()
    weights_after: Digest

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        counts, steps = [0, *(row.updates for row in self.updates)], [0, *(row.step for row in self.updates)]
        if counts != sorted(set(counts)) or steps != sorted(set(steps)) or steps[-1] > self.step:
            raise ValueError("updates are not in order")
        return self

    @property
    def is_complete(self) -> bool:
        return bool(self.updates) and self.updates[-1].updates >= NUM_UPDATES

    def run_config(self, steps: int = 1) -> AnyRunConfig:
        """The config of the updates, of a run so long: environment steps, or epochs; ConfigError if it is none."""
        length = "epochs" if "task" in self.config else "steps"
        return run_config({**self.config, length: steps}, RECEIPT)

    def text(self) -> str:
        """JSON, an update a line."""
        plain = self.model_dump(mode="json", exclude={"updates"})
        rows = ",\n".join(f"  {json.dumps(row)}" for row in self.updates)
        return json.dumps(plain, indent=1).removesuffix("\n}") + f',\n "updates": [\n{rows}\n ]\n}}\n'


def read_receipt(path: Path) -> Receipt:
    """ValueError in one line if there is none, or it is no receipt."""
    try:
        receipt = Receipt.model_validate_json(path.read_bytes())
        receipt.run_config()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; the run began with a graftwork that wrote no receipts") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except ConfigError as error:
        raise ValueError(f"{path} is damaged, or of another version: {error}") from error
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"])) or "it"
        raise ValueError(f"{path} is damaged, or of another version: {where}: {problem['msg']}") from error
    return receipt


def deciding(config: AnyRunConfig) -> dict[str, JsonValue]:
    """The fields that a run's updates follow from. What is not known to be without influence is one of them."""
    return config.model_dump(mode="json", exclude=_IDLE)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and every bit; the order of names does not count."""
    hasher = hashlib.sha256()
    for chunk in tensor_bytes(tensors):
        hasher.update(chunk)
    return hasher.hexdigest()[:16]


class Updates:
    """Rows of a learner's updates, as it makes them."""

    def __init__(self, learner: NetworkLearner, rows: Sequence[Row] = ()) -> None:
        """rows: of those that were made before."""
        self._learner, self.rows = learner, list(rows)
        self._counted = learner.num_updates

    def note(self, step: int, metrics: Mapping[str, Tensor]) -> None:
        """After a call to learn, at `step`. Reads the metrics, which waits for the device."""
        made, self._counted = self._learner.num_updates - self._counted, self._learner.num_updates
        if not metrics:
            return
        before = self.rows[-1].updates if self.rows else 0
        # log.layers adds measurements, which are none of the update's.
        own = {name: each for name, each in metrics.items() if not name.startswith(("activation_", "gradient_norm/"))}
        # A learner that does not count its updates is taken to make one a call.
        self.rows.append(Row(before + max(made, 1), step, digest(own)))

    def weights(self) -> str:
        """Digest of the network as it is now."""
        return digest(self._learner.network.state_dict())


class Recorder:
    """Writes the receipt of a run that is under way; on the disk it is whole at any time."""

    def __init__(self, path: Path, learner: NetworkLearner, receipt: Receipt) -> None:
        """receipt: as far as the run has come."""
        self._path, self._receipt = path, receipt
        self._updates = Updates(learner, receipt.updates)

    def note(self, step: int, metrics: Mapping[str, Tensor]) -> bool:
        """Take down a call to learn; False once no more are wanted, and then the receipt is written."""
        self._updates.note(step, metrics)
        rows = self._updates.rows
        if not rows or rows[-1].updates < NUM_UPDATES:
            return True
        self.save(step)
        return False

    def save(self, step: int) -> None:
        """Write what has been taken down, unless the file has it. To be called before a checkpoint of this step."""
        if self._receipt.is_complete:
            return
        rows, weights = tuple(self._updates.rows), self._updates.weights()
        self._receipt = self._receipt.model_copy(update={"step": step, "updates": rows, "weights_after": weights})
        write_text(self._path, self._receipt.text())


def recorder(
    path: Path,
    learner: NetworkLearner,
    config: AnyRunConfig,
    machine: Machine,
    resumed_from: int | None,
    say: Callable[[str], None],
) -> Recorder | None:
    """Of a run that begins, or that goes on from a step with the updates after it undone; None: none more to record.

    None where the receipt is complete; where there is none, as of runs older than receipts; where it is damaged, or
    misses updates, and is left as it is; and where it ends, since other settings or another machine go on.
    """
    if resumed_from is None:
        weights = Updates(learner).weights()
        start = Receipt(config=deciding(config), machine=machine, step=0, weights_before=weights, weights_after=weights)
        return Recorder(path, learner, start)
    if not path.exists():
        return None
    try:
        receipt = read_receipt(path)
    except ValueError as error:
        say(f"no more receipt: {error}")
        return None
    is_overridden = receipt.is_overridden or deciding(receipt.run_config()) != deciding(config)
    rows = tuple(row for row in receipt.updates if row.step <= resumed_from)
    if receipt.is_complete and rows == receipt.updates:
        if is_overridden != receipt.is_overridden:
            write_text(path, receipt.model_copy(update={"is_overridden": True}).text())
        return None
    if receipt.step < resumed_from:
        say(f"no more receipt: {path} tells of the updates up to step {receipt.step:,}, and misses some after it")
        return None
    cut = {"step": resumed_from, "updates": rows, "weights_after": Updates(learner).weights()}
    receipt = receipt.model_copy(update={**cut, "is_overridden": is_overridden})
    if not is_overridden and receipt.machine == machine:
        return Recorder(path, learner, receipt)
    write_text(path, receipt.text())
    say(f"no more receipt: {path} ends here, as other settings or another machine go on")
    return None
