"""The network of supervised tasks: one trunk, and a head by name for each thing to be told."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..networks import AuxiliaryHead, ClassHead, Encoder, Head, Heads, Network, Normalised, RegressionHead
from .dataset import Dataset
from .schema import HeadSchema, Schema


class Standardised(Head[Tensor]):
    """A head that learns numbers of mean 0 and deviation 1, and gives them in the data's own units.

    Both belong to the weights, so a model that is loaded predicts in those units too.
    """

    mean: Tensor  # [*shape]
    std: Tensor

    def __init__(self, head: RegressionHead | AuxiliaryHead, shape: Sequence[int]) -> None:
        super().__init__()
        self.head = head
        self.register_buffer("mean", torch.zeros(tuple(shape)))
        self.register_buffer("std", torch.ones(tuple(shape)))

    @torch.no_grad()
    def fit(self, values: Tensor) -> None:
        """Units of the training part's values [N, *shape]; a constant entry keeps a deviation of 1."""
        values = values.double()
        std = values.std(0, correction=0)
        self.mean.copy_(values.mean(0))
        self.std.copy_(torch.where(std > 0, std, 1.0))

    def forward(self, features: Tensor) -> Tensor:
        prediction: Tensor = self.head(features)
        return prediction * self.std + self.mean


class TaskNetwork(Network[dict[str, Tensor]]):
    """An encoder with named heads; where each sample is a sequence, a head that tells one thing of it reads the mean.

    `log_variance` [heads] weighs their losses, if that is learnt.
    """

    is_mapped = False  # by vmap, of which torch's recurrent kernels know nothing

    def __init__(self, encoder: Encoder, heads: Heads[Tensor], schema: Schema, *, learns_weights: bool = False) -> None:
        super().__init__(encoder, heads)
        self.schema = schema
        self.log_variance = nn.Parameter(torch.zeros(len(heads.names))) if learns_weights else None

    @property
    def heads(self) -> Heads[Tensor]:
        assert isinstance(self.head, Heads)
        return self.head

    def fit(self, data: Mapping[str, Dataset], *, inputs: bool) -> None:
        """Take the units of the numbers that heads tell, and if so wanted of the inputs, from the training parts."""
        for name, dataset in data.items():
            head = self.heads[name]
            if isinstance(head, Standardised):
                head.fit(dataset.target(self.schema.heads[name].target).values)
        normalised = [module for module in self.encoder.modules() if isinstance(module, Normalised)]
        if inputs and normalised:
            parts = {id(dataset): dataset for dataset in data.values()}.values()
            rows = torch.cat([_rows(dataset) for dataset in parts])
            normalised[0].fit(rows)  # the outermost: another inside it would see what this one gives

    def features(self, observation: Tensor, valid: Tensor) -> Tensor:
        """observation [T, N, *obs]; valid [T, N], which rows are no padding -> [T, N, F], anything in the padding."""
        is_first = None
        if self.is_mapped or not self.encoder.is_causal:
            # The row after a sequence's end begins anew: so what reads backwards takes in nothing of the padding.
            before = torch.cat((torch.ones_like(valid[:1]), valid[:-1]))
            is_first = before & ~valid
        features: Tensor = self.encoder(observation, (), is_first)[0]
        return features

    def outputs(self, features: Tensor, valid: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Of those heads: [N, ...], or [T, N, ...] for each row; features, valid as above."""
        if self.schema.inputs.is_sequence:
            inside = features.masked_fill(~valid.unsqueeze(-1), 0.0)
            pooled = inside.sum(0) / valid.sum(0).unsqueeze(-1)
        else:
            pooled = features[0]
        return {name: self.heads[name](features if self.schema.heads[name].per_row else pooled) for name in names}


def of_given(schema: HeadSchema, output: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
    """Of predictions told apart by a target of the samples, each sample's own: [N, A, *shape] -> [N, *shape]."""
    if schema.given is None:
        return output
    choice = targets[schema.given].view(-1, 1, *[1] * len(schema.shape))
    return output.take_along_dim(choice, 1).squeeze(1)


def _rows(dataset: Dataset) -> Tensor:
    """Every row of input that is no padding, [M, *obs]."""
    if dataset.lengths is None:
        return dataset.inputs
    inside = torch.arange(dataset.inputs.shape[1], device=dataset.lengths.device) < dataset.lengths.unsqueeze(1)
    return dataset.inputs[inside]


def make_heads(in_features: int, schema: Schema) -> Heads[Tensor]:
    return Heads({name: _make_head(in_features, head) for name, head in schema.heads.items()})


def _make_head(in_features: int, schema: HeadSchema) -> Head[Tensor]:
    if schema.classes:
        return ClassHead(in_features, len(schema.classes))
    if schema.given is not None:
        return Standardised(AuxiliaryHead(in_features, schema.choices, schema.shape), schema.shape)
    return Standardised(RegressionHead(in_features, schema.shape), schema.shape)
