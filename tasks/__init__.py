"""Tasks on labelled data: one trunk with heads, trained by the same Trainer as an agent."""

from .arrays import Data, as_dataset, from_arrays, from_torch
from .batches import Batches, MultiBatches, Samples
from .config import HeadConfig, PenaltyConfig, SupervisedConfig, loss_of
from .dataset import Dataset, Target
from .ensemble import Ensemble
from .model import Model
from .network import TaskNetwork
from .schema import Schema, schema_of
from .scores import ClassScores, NumberScores, Scores
from .sources import DataConfig, chosen, divide, load, splits
from .splits import Splits, split
from .supervised import Supervised, targets_of
from .validation import Part, Validation, chosen_weights, score

__all__ = [
    "Batches",
    "ClassScores",
    "Data",
    "DataConfig",
    "Dataset",
    "Ensemble",
    "HeadConfig",
    "Model",
    "MultiBatches",
    "NumberScores",
    "Part",
    "PenaltyConfig",
    "Samples",
    "Schema",
    "Scores",
    "Splits",
    "Supervised",
    "SupervisedConfig",
    "Target",
    "TaskNetwork",
    "Validation",
    "as_dataset",
    "chosen",
    "chosen_weights",
    "divide",
    "from_arrays",
    "from_torch",
    "load",
    "loss_of",
    "schema_of",
    "score",
    "split",
    "splits",
    "targets_of",
]
