"""How good a supervised learner is by now, and when it gets no better."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine import StateDict, expect_keys
from ..networks import mode
from ..training.evaluate import Interrupted
from .batches import Samples, in_order
from .dataset import Dataset
from .ensemble import Ensemble
from .network import TaskNetwork, of_given
from .schema import HeadSchema
from .scores import HeadScores, Scores, class_scores, number_scores
from .supervised import Supervised, targets_of

BATCH = 512  # samples a pass where nothing is learnt


@dataclass(frozen=True)
class Part:
    """One source of data, or one split of it, and the heads that it tells of."""

    dataset: Dataset
    heads: tuple[str, ...]


class Validation:
    """Scores of the learner on data that it does not learn from; with `patience`, keeps the weights of the lowest loss.

    The run is over once so many evaluations in a row came to no lower loss (early stopping; Prechelt 1998). Ties go to
    the earlier weights.
    """

    def __init__(
        self, learner: Supervised, parts: Sequence[Part], name: str, epoch_samples: int, patience: int | None
    ) -> None:
        """name: what the parts are of the data, such as validation."""
        self._learner, self._parts, self._name = learner, tuple(parts), name
        self._epoch_samples, self._patience = epoch_samples, patience
        self._best: dict[str, Tensor] = {}  # weights; none before the first evaluation
        self._lowest = float("inf")
        self._stale = 0  # evaluations since then

    @property
    def is_over(self) -> bool:
        return self._patience is not None and self._stale >= self._patience

    def __call__(self, step: int, stop: Callable[[], bool]) -> Scores:
        scores = score(self._learner, self._parts, self._name, step / self._epoch_samples, stop)
        if self._patience is not None:
            if scores.loss < self._lowest:
                state = self._learner.network.state_dict()
                self._best = {name: tensor.detach().clone() for name, tensor in state.items()}
                self._lowest, self._stale = scores.loss, 0
            else:
                self._stale += 1
        return scores

    def state_dict(self) -> StateDict:
        if self._patience is None:
            return {}
        return {"best": dict(self._best), "lowest": self._lowest, "stale": self._stale, "is_over": self.is_over}

    def load_state_dict(self, state: StateDict) -> None:
        expect_keys("validation", state, {"best", "lowest", "stale", "is_over"})
        self._lowest, self._stale = state["lowest"], state["stale"]
        self._best = {name: tensor.clone() for name, tensor in state["best"].items()}


def chosen_weights(state: StateDict) -> StateDict:
    """Of a trainer's state, the network that a run is for: that of the lowest validation loss, if it looked for one."""
    best: StateDict = state.get("evaluator", {}).get("best") or state["learner"]["network"]
    return best


@torch.no_grad()
def score(
    learner: Supervised,
    parts: Sequence[Part],
    name: str,
    epoch: float,
    stop: Callable[[], bool] = lambda: False,
) -> Scores:
    """Scores of the learner's network in eval mode; an ensemble's are of its averaged prediction.

    The loss is summed over heads as in training, an ensemble's averaged over members. Raises Interrupted after a stop.
    """
    network = learner.network
    heads: dict[str, HeadScores] = {}
    losses: dict[str, Tensor] = {}
    device = next(network.parameters()).device
    with mode(network, training=False):
        for part in parts:
            names = targets_of(network.schema, part.heads)
            seen: dict[str, list[tuple[Tensor, Tensor]]] = {head: [] for head in part.heads}
            sums: dict[str, Tensor] = {}
            rows = dict.fromkeys(part.heads, 0)
            for samples in in_order(part.dataset, BATCH, names, device):
                if stop():
                    raise Interrupted
                outputs, batch_losses = _pass(learner, samples, part.heads)
                targets = dict(zip(names, samples.targets, strict=True))
                for head in part.heads:
                    count = int(samples.valid.sum()) if network.schema.heads[head].per_row else samples.valid.shape[1]
                    sums[head] = sums.get(head, 0.0) + batch_losses[head].double() * count
                    rows[head] += count
                    seen[head].append(_told(network.schema.heads[head], outputs[head], targets, samples.valid))
            for head in part.heads:
                losses[head] = sums[head] / rows[head]
                prediction, target = (torch.cat(each) for each in zip(*seen[head], strict=True))
                loss, schema = losses[head].mean().item(), network.schema.heads[head]
                heads[head] = (
                    number_scores(prediction, target, loss)
                    if schema.is_regression
                    else class_scores(prediction, target, loss, schema.classes)
                )
    return Scores(name, epoch, _total(learner, losses), heads)


def _pass(learner: Supervised, samples: Samples, heads: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Predictions, averaged over members, and losses of each member."""

    def of_one(network: TaskNetwork) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        features = network.features(samples.observation, samples.valid)
        return predictions(network, features, samples.valid, heads), learner.losses(network, features, samples, heads)

    if isinstance(learner.network, Ensemble):
        outputs, losses = learner.network.map(of_one)
        return {head: output.mean(0) for head, output in outputs.items()}, losses
    return of_one(learner.network)


def predictions(network: TaskNetwork, features: Tensor, valid: Tensor, heads: Sequence[str]) -> dict[str, Tensor]:
    """Probabilities of classes, or numbers."""
    outputs = network.outputs(features, valid, heads)
    return {
        head: output if network.schema.heads[head].is_regression else output.softmax(-1)
        for head, output in outputs.items()
    }


def _told(schema: HeadSchema, output: Tensor, targets: Mapping[str, Tensor], valid: Tensor) -> tuple[Tensor, Tensor]:
    """Prediction and target, one a sample or one a row that is no padding."""
    target = targets[schema.target]
    if schema.per_row:
        return output[valid], target[valid]
    return of_given(schema, output, targets), target


def _total(learner: Supervised, losses: dict[str, Tensor]) -> float:
    network = learner.network
    if isinstance(network, Ensemble):
        return (
            sum(
                learner.weighted(network.member(i), {name: loss[i] for name, loss in losses.items()}).item()
                for i in range(network.num_members)
            )
            / network.num_members
        )
    return learner.weighted(network, losses).item()
