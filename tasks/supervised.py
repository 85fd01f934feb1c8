"""Supervised learning of one thing or of several at once: a trunk, named heads, and the sum of their losses."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..engine import GradientStep, Metrics, StateDict, expect_keys, load_weights
from ..losses import (
    binary_cross_entropy,
    cross_entropy,
    huber,
    kl_sparsity,
    masked_mean,
    multiclass_hinge,
    squared,
    uncertainty_weighted,
)
from ..networks import has_batch_norm, mode, parameter_groups
from ..training.seeding import Seeds
from .batches import Samples
from .config import HeadConfig, SupervisedConfig, loss_of
from .ensemble import Ensemble
from .network import Standardised, TaskNetwork, of_given
from .schema import HeadSchema, Schema


class Supervised:
    """Learns from labelled samples; its batch is a tuple of Samples, one for each source of data."""

    def __init__(
        self,
        network: TaskNetwork | Ensemble,
        config: SupervisedConfig,
        sources: Sequence[Sequence[str]],
        epoch_samples: int,
        seeds: Seeds,
        device: torch.device | str = "cpu",
        counted: int = 0,
    ) -> None:
        """sources: the heads that learn from each.

        epoch_samples: of the source at place `counted`, the one of most samples; `step` counts its samples.
        ValueError for batch norm on sequences.
        """
        if network.schema.inputs.is_sequence and has_batch_norm(network.encoder):
            raise ValueError(
                "task.encoder: batch norm would take the padding of sequences for rows of theirs; "
                "take norm=layer, group or rms"
            )
        self.network, self.config = network.to(device).eval(), config
        self.step = 0  # samples learnt from
        self._sources, self._counted = [tuple(heads) for heads in sources], counted
        self._epoch_samples = epoch_samples
        optimizer = config.optimizer.build(parameter_groups(network))
        self._update = GradientStep(
            self._loss, network, optimizer, config.max_gradient_norm, generator=seeds.generator("dropout", device)
        )

    def learn(self, batch: tuple[Samples, ...]) -> Metrics:
        learning_rate = self.config.learning_rate.at(self.step / self._epoch_samples)
        self.step += batch[self._counted].valid.shape[1]
        with mode(self.network, training=True):
            return self._update([batch], learning_rate)

    def examine(self, wanted: bool) -> None:
        self._update.examine(wanted)

    @property
    def num_updates(self) -> int:
        return self._update.num_updates

    def losses(
        self, network: TaskNetwork, features: Tensor, samples: Samples, heads: Sequence[str]
    ) -> dict[str, Tensor]:
        """Each head's mean loss over the samples, or over their rows that are no padding; numbers in deviations."""
        outputs = network.outputs(features, samples.valid, heads)
        targets = dict(zip(targets_of(network.schema, heads), samples.targets, strict=True))
        losses = {}
        for name, output in outputs.items():
            schema, head = network.schema.heads[name], network.heads[name]
            output, target = of_given(schema, output, targets), targets[schema.target]
            if isinstance(head, Standardised):  # in units of one deviation, so that weights mean the same
                output, target = (output - head.mean) / head.std, (target - head.mean) / head.std
            loss = self._elements(name, schema, output, target)
            losses[name] = masked_mean(loss, samples.valid) if schema.per_row else loss.mean()
        return losses

    def weighted(self, network: TaskNetwork, losses: dict[str, Tensor]) -> Tensor:
        """The heads' losses as one number."""
        names = network.heads.names
        weights = {name: self.config.heads[name].weight if name in self.config.heads else 1.0 for name in names}
        each = torch.stack([weights[name] * losses[name] for name in names])
        if network.log_variance is None:
            return each.sum()
        # Squared errors come halved, as eq. 7 wants them: one formula serves both kinds.
        return uncertainty_weighted(each, network.log_variance, is_regression=False).sum()

    def state_dict(self) -> StateDict:
        return {"network": self.network.state_dict(), "optimizer": self._update.state_dict(), "step": self.step}

    def load_state_dict(self, state: StateDict) -> None:
        expect_keys("supervised", state, {"network", "optimizer", "step"})
        load_weights("network", self.network, state["network"])
        self._update.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def _loss(self, network: TaskNetwork | Ensemble, batch: tuple[Samples, ...]) -> tuple[Tensor, Metrics]:
        penalty = self._weight_penalty(network)
        if not isinstance(network, Ensemble):
            loss, metrics = self._member_loss(network, batch)
            return loss + penalty, metrics
        losses, metrics = network.map(lambda member: self._member_loss(member, batch))
        # The sum, for its gradient by a member's weights is that of the member's own loss; told is the mean.
        loss = losses.sum() + penalty
        return loss, {"loss": loss.detach() / network.num_members, **metrics}

    def _member_loss(self, network: TaskNetwork, batch: tuple[Samples, ...]) -> tuple[Tensor, Metrics]:
        """Without what its weights cost."""
        losses: dict[str, Tensor] = {}
        penalty = torch.zeros((), device=batch[0].observation.device)
        for heads, samples in zip(self._sources, batch, strict=True):
            features = network.features(samples.observation, samples.valid)
            losses |= self.losses(network, features, samples, heads)
            penalty = penalty + self._sparsity_penalty(features, samples.valid)
        metrics = {f"loss/{name}": loss.detach() for name, loss in losses.items()}
        if network.log_variance is not None:
            noise = (0.5 * network.log_variance).exp().detach()
            metrics |= {f"uncertainty/{name}": noise[i] for i, name in enumerate(network.heads.names)}
        return self.weighted(network, losses) + penalty, metrics

    def _sparsity_penalty(self, features: Tensor, valid: Tensor) -> Tensor | float:
        """features [T, N, F], valid [T, N]."""
        penalty = self.config.penalty
        if not penalty.sparsity:
            return 0.0
        # Deviation from Ng 2011, whose units are sigmoids: a sigmoid of ReLU's 0 is 1/2, and no target below that could
        # be met. How far from 0 serves every activation.
        active = features.abs().tanh().masked_fill(~valid.unsqueeze(-1), 0.0)
        return penalty.sparsity * kl_sparsity(active.sum((0, 1)) / valid.sum(), penalty.sparsity_target)

    def _weight_penalty(self, network: TaskNetwork | Ensemble) -> Tensor | float:
        """Summed over members, whose weights have one more dimension. (Inside vmap nothing says what is trained.)"""
        l1, l2 = self.config.penalty.l1, self.config.penalty.l2
        if not l1 and not l2:
            return 0.0
        ndim = 3 if isinstance(network, Ensemble) else 2
        weights = [each for each in network.parameters() if each.ndim >= ndim and each.requires_grad]
        return sum((l1 * weight.abs().sum() + 0.5 * l2 * weight.square().sum() for weight in weights), 0.0)

    def _elements(self, name: str, schema: HeadSchema, output: Tensor, target: Tensor) -> Tensor:
        """Losses of single elements: classes [...], numbers [..., *shape]."""
        config = self.config.heads.get(name) or HeadConfig()
        kind = loss_of(config, schema)
        if kind == "cross_entropy":
            return cross_entropy(output, target, config.label_smoothing)
        if kind == "hinge":
            return multiclass_hinge(output, target)
        if kind == "binary":
            return binary_cross_entropy(output[..., 1] - output[..., 0], target)
        return (huber if kind == "huber" else squared)(output - target)


def targets_of(schema: Schema, heads: Sequence[str]) -> list[str]:
    """Targets that a source of those heads hands out, each once."""
    wanted = [name for head in heads for name in (schema.heads[head].target, schema.heads[head].given)]
    return list(dict.fromkeys(name for name in wanted if name is not None))
