"""Encoders that move from run to run: taken over, frozen, and set free again block by block."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from gymnasium import spaces
from torch import Tensor, nn

from ..engine import StateDict, load_weights
from ..networks import Encoder, EncoderConfig, freeze, has_batch_norm, num_frozen_blocks
from ..spaces import one_line
from ..tasks import Schema
from .config import AnyRunConfig, GraftConfig, RunConfig
from .parts import NetworkLearner


def encoder_config(config: AnyRunConfig, schema: Schema | None) -> EncoderConfig:
    """Of the encoder that such a run trains. schema: of a task."""
    if isinstance(config, RunConfig):
        return config.agent.encoder
    assert schema is not None
    # Tokens have no units to be taken off.
    return config.task.full_encoder if isinstance(schema.inputs.space(), spaces.Box) else config.task.encoder


def with_encoder_of(config: AnyRunConfig, source: AnyRunConfig, schema: Schema | None) -> AnyRunConfig:
    """The config with the other's encoder, so that the run needs the other only to begin with.

    schema: the other's, if it is a task.
    """
    encoder = encoder_config(source, schema)
    if isinstance(config, RunConfig):
        return config.model_copy(update={"agent": config.agent.model_copy(update={"encoder": encoder})})
    # It brings its own units of the inputs along, if any.
    task = config.task.model_copy(update={"encoder": encoder, "normalise": "none"})
    return config.model_copy(update={"task": task})


def transplanted(
    graft: GraftConfig, encoder: EncoderConfig, space: spaces.Space[Any], source: Encoder | None
) -> Encoder:
    """An encoder for `space` with the weights of `source`; without one, of a run whose weights are yet to be loaded."""
    try:
        built = encoder.build(space)
        if source is not None:
            load_weights("its encoder", built, source.state_dict())
    except ValueError as error:
        raise ValueError(f"graft.run={graft.run} does not fit {one_line(space)}: {error}") from error
    return built


def prepare(encoder: Encoder, graft: GraftConfig) -> None:
    """Freeze what the config says, and set the rates of the rest. ValueError names a layer that is not there."""
    if graft.rate_decay != 1.0:  # one from Python may have its own
        encoder.rate_decay = graft.rate_decay
    if graft.freeze != 0:
        try:
            freeze(encoder, graft.freeze)
        except ValueError as error:
            raise ValueError(f"graft.{error}") from error


def comes_to_learn_batch_norm(encoder: Encoder, graft: GraftConfig) -> bool:
    """Whether it learns from the statistics of a batch, or will once it is set free."""
    if graft.unfreeze_period is None:
        return has_batch_norm(encoder)
    return has_batch_norm(deepcopy(encoder).requires_grad_(True))


class Thawing:
    """A learner whose encoder is set free from the head down, one block after each period."""

    def __init__(
        self, learner: NetworkLearner, encoder: Encoder, graft: GraftConfig, period: int, step: Callable[[], int]
    ) -> None:
        """period: in what `step` counts, of which there were so many."""
        self.network: nn.Module = learner.network
        self._learner, self._encoder, self._graft = learner, encoder, graft
        self._period, self._step = period, step

    def learn(self, batch: Any) -> Mapping[str, Tensor]:
        self._thaw()
        return self._learner.learn(batch)

    def examine(self, wanted: bool) -> None:
        self._learner.examine(wanted)

    @property
    def num_updates(self) -> int:
        return self._learner.num_updates

    def state_dict(self) -> StateDict:
        return self._learner.state_dict()

    def load_state_dict(self, state: StateDict) -> None:
        self._learner.load_state_dict(state)
        self._thaw()

    def _thaw(self) -> None:
        """Frozen is what the step says, and nothing else: so a resumed run needs to remember nothing."""
        freeze(self._encoder, num_frozen_blocks(self._encoder, self._graft.freeze, self._step(), self._period))


def thawing(
    learner: NetworkLearner, encoder: Encoder, graft: GraftConfig, step: Callable[[], int], unit: int = 1
) -> NetworkLearner:
    """The learner, which thaws if the config says so. unit: of `step`, in one of the config's periods."""
    if graft.unfreeze_period is None or graft.freeze == 0:
        return learner
    return Thawing(learner, encoder, graft, graft.unfreeze_period * unit, step)
