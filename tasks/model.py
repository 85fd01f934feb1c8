"""A trained supervised model: arrays in, answers out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..networks import mode
from .arrays import tensor
from .ensemble import Ensemble
from .network import TaskNetwork
from .schema import InputSchema
from .validation import BATCH, predictions

Array = npt.NDArray[Any]


class Model:
    """Predicts for samples as the data had them: [*obs] or [N, *obs], sequences [N, T, *obs] with their `lengths`.

    A sequence's padding may hold anything, and so may the answers for its rows. ValueError, in one line, for inputs of
    another shape or type, or that are not finite or out of range.
    """

    def __init__(self, network: TaskNetwork | Ensemble) -> None:
        self.network = network.eval()
        self.schema = network.schema

    def predict(self, inputs: Any, lengths: Any = None) -> Any:
        """Class numbers, or numbers, [N, ...]; a lone sample's without N. A dict by head where there are several.

        An ensemble's members are averaged. Predictions that are told apart by a target (`given`) come all, [N, A, ...].
        """
        return self._answer(inputs, lengths, self._pick)

    def probabilities(self, inputs: Any, lengths: Any = None) -> Any:
        """As `predict`, with the probability of each class [N, ..., C] in place of the likeliest.

        Those of a head that learnt by `hinge` are in the right order, but no more than that.
        """
        return self._answer(inputs, lengths, lambda name, output: output.mean(0))

    def spread(self, inputs: Any, lengths: Any = None) -> Any:
        """How far an ensemble's members are apart: the deviation over members of each probability or number.

        ValueError for a single network, which has nobody to disagree with.
        """
        if not isinstance(self.network, Ensemble):
            raise ValueError("this model is no ensemble, so there is no spread; train with task.members=5")
        return self._answer(inputs, lengths, lambda name, output: output.std(0, correction=0))

    def _pick(self, name: str, output: Tensor) -> Tensor:
        mean = output.mean(0)
        return mean if self.schema.heads[name].is_regression else mean.argmax(-1)

    @torch.no_grad()
    def _answer(self, inputs: Any, lengths: Any, conclude: Callable[[str, Tensor], Tensor]) -> Any:
        """conclude: of a head's name and its members' predictions [M, N, ...]."""
        batch, valid, is_single = self._batch(inputs, lengths)
        heads = tuple(self.schema.heads)
        parts: list[dict[str, Tensor]] = []
        with mode(self.network, training=False):
            for rows, marks in zip(torch.split(batch, BATCH), torch.split(valid, BATCH), strict=True):
                parts.append(self._members(rows, marks, heads))
        answers: dict[str, Array] = {}
        for name in heads:
            per_row = self.schema.heads[name].per_row
            outputs = torch.cat([part[name].transpose(1, 2) if per_row else part[name] for part in parts], 1)
            answer = conclude(name, outputs).cpu().numpy()
            answers[name] = answer[0] if is_single else answer
        return answers if len(answers) > 1 else next(iter(answers.values()))

    def _members(self, rows: Tensor, valid: Tensor, heads: tuple[str, ...]) -> dict[str, Tensor]:
        """Predictions of each member, [M, ...]."""
        is_sequence = self.schema.inputs.is_sequence
        observation = rows.transpose(0, 1) if is_sequence else rows.unsqueeze(0)
        marks = valid.T if is_sequence else valid.unsqueeze(0)

        def of_one(network: TaskNetwork) -> dict[str, Tensor]:
            return predictions(network, network.features(observation, marks), marks, heads)

        if isinstance(self.network, Ensemble):
            return self.network.map(of_one)
        return {name: output.unsqueeze(0) for name, output in of_one(self.network).items()}

    def _batch(self, inputs: Any, lengths: Any) -> tuple[Tensor, Tensor, bool]:
        """Samples [N, *obs] or [N, T, *obs]; which rows are no padding, [N] or [N, T]; whether it is a lone sample."""
        schema, device = self.schema.inputs, next(self.network.parameters()).device
        given = _numbers("inputs", inputs)
        if schema.dtype != "float32" and given.is_floating_point():
            raise ValueError(f"inputs are {given.dtype}, the model takes {schema.dtype}".replace("torch.", ""))
        ndim = len(schema.shape) + schema.is_sequence
        is_single = given.ndim == ndim
        batch = given.unsqueeze(0) if is_single else given
        if batch.ndim != ndim + 1 or tuple(batch.shape[1 + schema.is_sequence :]) != schema.shape or not batch.numel():
            expected = ", ".join(map(str, ("N", "T")[: 1 + schema.is_sequence] + schema.shape))
            raise ValueError(f"inputs have the shape {list(given.shape)}, expected [{expected}], or one such sample")
        valid = self._valid(batch, lengths)
        if schema.is_sequence:
            batch = batch.masked_fill(~valid.view(*valid.shape, *[1] * len(schema.shape)), 0)
        _check_range(batch, schema)
        batch = batch.to(device, self.schema.observation_dtype)
        if batch.is_floating_point() and not batch.isfinite().all():
            raise ValueError(f"inputs: sample {int((~batch.isfinite()).nonzero()[0][0])} is not finite (in float32)")
        return batch, valid.to(device), is_single

    def _valid(self, batch: Tensor, lengths: Any) -> Tensor:
        if not self.schema.inputs.is_sequence:
            if lengths is not None:
                raise ValueError("lengths: this model's samples are no sequences; leave them out")
            return torch.ones(len(batch), dtype=torch.bool, device=batch.device)
        time = batch.shape[1]
        rows = torch.full(batch.shape[:1], time) if lengths is None else _numbers("lengths", lengths)
        rows = rows.unsqueeze(0) if rows.ndim == 0 else rows
        is_right = not rows.is_floating_point() and rows.shape == batch.shape[:1]
        if not is_right or ((rows < 1) | (rows > time)).any():
            raise ValueError(f"lengths must be one whole number for each of the {len(batch)} samples, 1 to {time}")
        return torch.arange(time, device=batch.device) < rows.to(batch.device).unsqueeze(1)


def _numbers(name: str, values: Any) -> Tensor:
    if not isinstance(values, Tensor):
        try:
            values = np.asarray(values)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{name} are no array of numbers: {error}") from error
    numbers = tensor(name, values)
    if numbers.is_complex():
        raise ValueError(f"{name}: must be real numbers, got complex ones")
    return numbers


def _check_range(inputs: Tensor, schema: InputSchema) -> None:
    """ValueError that names the first of whole numbers [N, ..., *shape] which is none of the choices, or no byte."""
    if schema.dtype == "float32" or (inputs.dtype == torch.uint8 and not schema.sizes):
        return
    inputs = inputs.long()
    size = torch.tensor(schema.sizes).view(schema.shape).to(inputs.device) if schema.sizes else inputs.new_tensor(256)
    bad = (inputs < 0) | (inputs >= size)
    if bad.any():
        place = bad.nonzero()[0]
        most = int(size.expand_as(inputs)[tuple(place)]) - 1
        raise ValueError(f"inputs: sample {int(place[0])} has {int(inputs[tuple(place)])}; allowed: 0 to {most}")
