"""How well a model does on a part of the data: per class, or as errors of numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClassScores:
    """Of C classes, from the confusion matrix. A share of nothing, as the precision of a class never told, is 0."""

    loss: float
    confusion: tuple[tuple[int, ...], ...]  # [C][C]: samples of the row's class that were taken for the column's
    classes: tuple[str, ...]  # names

    @property
    def accuracy(self) -> float:
        return _share(sum(row[i] for i, row in enumerate(self.confusion)), self.count)

    @property
    def count(self) -> int:
        return sum(map(sum, self.confusion))

    @property
    def precision(self) -> tuple[float, ...]:
        """Of what was told to be the class, the share that is."""
        return tuple(_share(self.confusion[i][i], sum(row[i] for row in self.confusion)) for i in range(self._size))

    @property
    def recall(self) -> tuple[float, ...]:
        """Of what is the class, the share that was told to be."""
        return tuple(_share(row[i], sum(row)) for i, row in enumerate(self.confusion))

    @property
    def specificity(self) -> tuple[float, ...]:
        """Of what is not the class, the share that was told not to be."""
        shares = []
        for i, row in enumerate(self.confusion):
            false_positives = sum(other[i] for other in self.confusion) - row[i]
            negatives = self.count - sum(row)
            shares.append(_share(negatives - false_positives, negatives))
        return tuple(shares)

    @property
    def f1(self) -> tuple[float, ...]:
        """The harmonic mean of precision and recall."""
        pairs = zip(self.precision, self.recall, strict=True)
        return tuple(2 * p * r / (p + r) if p + r else 0.0 for p, r in pairs)

    def headline(self) -> dict[str, float]:
        return {"loss": self.loss, "accuracy": self.accuracy, "f1": fmean(self.f1)}

    def record(self) -> dict[str, object]:
        per_class = {
            name: {"precision": p, "recall": r, "specificity": s, "f1": f, "count": sum(row)}
            for name, p, r, s, f, row in zip(
                self.classes, self.precision, self.recall, self.specificity, self.f1, self.confusion, strict=True
            )
        }
        return {**self.headline(), "classes": per_class, "confusion": [list(row) for row in self.confusion]}

    @property
    def _size(self) -> int:
        return len(self.confusion)


@dataclass(frozen=True)
class NumberScores:
    """Of a regression, in the data's own units, averaged over samples and entries."""

    loss: float
    squared_error: float
    absolute_error: float
    r2: float  # 1 less the squared error as a share of the variance; 0 for telling the mean
    count: int  # samples

    def headline(self) -> dict[str, float]:
        return {"loss": self.loss, "rmse": self.squared_error**0.5, "mae": self.absolute_error, "r2": self.r2}

    def record(self) -> dict[str, object]:
        return {**self.headline(), "count": self.count}


HeadScores: TypeAlias = ClassScores | NumberScores


@dataclass(frozen=True)
class Scores:
    """What an evaluation of a supervised run came to."""

    part: str  # of the data: train, validation or test
    epoch: float
    loss: float  # as training weighs the heads' losses, without penalties
    heads: Mapping[str, HeadScores]

    def record(self) -> dict[str, object]:
        heads = {name: scores.record() for name, scores in self.heads.items()}
        return {"part": self.part, "epoch": self.epoch, "loss": self.loss, "heads": heads}

    def metrics(self) -> dict[str, float]:
        entries = {
            f"{name}/{key}": value for name, each in self.heads.items() for key, value in each.headline().items()
        }
        return {f"{self.part}/{key}": value for key, value in {"loss": self.loss, **entries}.items()}

    def table(self) -> str:
        """Every head's scores, those of classes a line each."""
        lines: list[str] = []
        for name, scores in self.heads.items():
            if isinstance(scores, NumberScores):
                lines.append(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in scores.headline().items()))
                continue
            width = max(len(name), *map(len, scores.classes))
            lines.append(f"{name:{width}}  precision  recall  specificity     f1  count")
            rows = zip(scores.classes, scores.precision, scores.recall, scores.specificity, scores.f1, strict=True)
            for row, (label, precision, recall, specificity, f1) in zip(scores.confusion, rows, strict=True):
                lines.append(
                    f"{label:{width}}  {precision:9.3f}  {recall:6.3f}  {specificity:11.3f}  {f1:5.3f}  {sum(row):5}"
                )
        return "\n".join(lines)

    def __str__(self) -> str:
        shown = []
        for name, scores in self.heads.items():
            key = "accuracy" if isinstance(scores, ClassScores) else "r2"
            shown.append(f"{name} {key} {scores.headline()[key]:.3f}")
        return f"{self.part} loss {self.loss:.4f}, {', '.join(shown)}"


def class_scores(probabilities: Tensor, target: Tensor, loss: float, classes: tuple[str, ...]) -> ClassScores:
    """probabilities [N, C] or anything of the same order; target [N] int64."""
    size = len(classes)
    cells = torch.bincount(target * size + probabilities.argmax(-1), minlength=size * size).view(size, size)
    return ClassScores(loss, tuple(tuple(row) for row in cells.tolist()), classes)


def number_scores(prediction: Tensor, target: Tensor, loss: float) -> NumberScores:
    """prediction, target: [N, *shape]."""
    prediction, target = prediction.double(), target.double()
    error = prediction - target
    squared = (error**2).mean()
    variance = ((target - target.mean(0)) ** 2).mean()
    r2 = 1 - squared / variance if variance > 0 else torch.zeros(())
    return NumberScores(loss, squared.item(), error.abs().mean().item(), r2.item(), len(target))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
