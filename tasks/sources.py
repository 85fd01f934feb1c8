"""Where labelled data come from: scikit-learn's own sets, .npz files, torchvision, and transitions of environments."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from pydantic import AfterValidator, Field, model_validator

from ..configs.config import Config
from ..configs.suggest import nearest, suggest
from ..spaces import one_line
from ..training.seeding import Seeds
from .arrays import MapDataset, from_arrays, from_torch, tensor
from .augment import AugmentConfig
from .dataset import Dataset, Target
from .splits import Splits, split
from .transitions import transitions

Array = npt.NDArray[Any]
Share = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[int, Field(ge=0)]

GIVEN = "given"  # in Python, as data=...
_TORCHVISION, _TRANSITIONS = "torchvision:", "transitions:"


def _known(name: str) -> str:
    if name in (GIVEN, *_BUNDLED) or name.endswith(".npz") or re.match(rf"({_TORCHVISION}|{_TRANSITIONS})\w", name):
        return name
    allowed = f"{', '.join(_BUNDLED)}, a path that ends in .npz, {_TORCHVISION}NAME, or {_TRANSITIONS}ENV_ID"
    raise ValueError(f"{name!r} must be one of {allowed}{suggest(name, _BUNDLED)}")


class DataConfig(Config):
    name: Annotated[str, AfterValidator(_known)] = GIVEN  # digits, my.npz, torchvision:MNIST, transitions:CartPole-v1
    samples: Annotated[int, Field(gt=0)] = 10_000  # transitions that a random player makes
    root: str = "data"  # folder that torchvision finds its files in; nothing is ever downloaded
    classes: Annotated[tuple[NonNegative, ...], Field(min_length=2)] | None = None  # keep these, numbered anew from 0
    per_class: Annotated[int, Field(gt=0)] | None = None  # training samples of each class; None keeps all
    validation: Share = 0.15  # of all samples
    test: Share = 0.25  # of all samples
    split_seed: NonNegative | None = None  # decides which samples are in which split; None is the run's seed
    augment: AugmentConfig = AugmentConfig()  # of the training part

    @model_validator(mode="after")
    def _leaves_some_to_train_on(self) -> "DataConfig":
        if self.validation + self.test >= 1:
            raise ValueError(f"validation={self.validation} and test={self.test}: their sum must be less than 1")
        return self


def load(config: DataConfig) -> Dataset:
    """All of the data, of the chosen classes of the main target. ValueError in one line for what cannot be read."""
    with _named(config):
        if config.name in _BUNDLED:
            sklearn = _import("sklearn.datasets", "scikit-learn: pip install 'graftwork[data]'")
            dataset = _BUNDLED[config.name](sklearn)
        elif config.name.startswith(_TORCHVISION):
            dataset = _torchvision(config.name.removeprefix(_TORCHVISION), config.root)
        elif config.name.startswith(_TRANSITIONS):
            dataset = transitions(config.name.removeprefix(_TRANSITIONS), config.samples)
        elif config.name == GIVEN:
            raise ValueError(f"give the data in Python as data=..., or name some: {', '.join(_BUNDLED)} or a path.npz")
        else:
            dataset = _npz(Path(config.name))
    return chosen(dataset, config)


def chosen(dataset: Dataset, config: DataConfig) -> Dataset:
    """The samples of the classes that the config keeps. ValueError if they cannot be augmented as it says."""
    if config.classes is not None:
        with _named(config):
            dataset = dataset.keep_classes(dataset.main, config.classes)
    config.augment.check(dataset.space, is_sequence=dataset.lengths is not None)
    return dataset


def splits(config: DataConfig, seeds: Seeds) -> Splits:
    """The data in parts; with `per_class` so few training samples, of the same training part, for the same seed."""
    return divide(load(config), config, seeds)


def divide(dataset: Dataset, config: DataConfig, seeds: Seeds) -> Splits:
    """The data set in parts, as the config says."""
    seeds = seeds if config.split_seed is None else Seeds(config.split_seed)
    with _named(config):
        parts = split(dataset, config.validation, config.test, seeds.generator("split"))
        if config.per_class is None:
            return parts
        return parts._replace(train=parts.train.few(dataset.main, config.per_class, seeds.generator("few")))


def _npz(path: Path) -> Dataset:
    arrays = _read_npz(path)
    if "inputs" not in arrays:
        near = nearest("inputs", arrays)
        hint = f"; should {near} be called inputs?" if near else ""
        raise ValueError(f"has no array 'inputs'; it has {', '.join(arrays) or 'none'}{hint}")
    inputs, lengths = arrays.pop("inputs"), arrays.pop("lengths", None)
    if not arrays:
        raise ValueError("has no target: beside 'inputs' and 'lengths' there must be an array for each")
    return from_arrays(inputs, arrays, lengths=lengths)


def _read_npz(path: Path) -> dict[str, Array]:
    try:
        stream = path.open("rb")
    except OSError as error:
        raise ValueError("no such file" if isinstance(error, FileNotFoundError) else error.strerror) from None
    damaged = "is damaged, or was not written by numpy.savez"
    with stream:
        try:
            file = np.load(stream)
            if isinstance(file, np.lib.npyio.NpzFile):
                return {name: file[name] for name in file.files}
        except MemoryError:
            raise ValueError(f"does not fit into memory, or {damaged}") from None
        except Exception as error:  # zipfile and numpy have a dozen types for what may be wrong with a file
            if "Object arrays" in str(error):
                reason = "holds Python objects, which could run code when read; save arrays of numbers"
                raise ValueError(reason) from None
    raise ValueError(damaged)


def _torchvision(name: str, root: str) -> Dataset:
    """What the class gives by default: the training part, where there are two."""
    available = _import("torchvision.datasets", "torchvision: pip install torchvision")
    known: Sequence[str] = getattr(available, "__all__", dir(available))
    if name not in known:
        raise ValueError(f"torchvision.datasets has no {name!r}{suggest(name, known)}")
    make: Callable[..., MapDataset] = getattr(available, name)
    arguments = {"root": root, "download": False}
    try:
        accepted = signature(make).parameters
        return from_torch(make(**{key: value for key, value in arguments.items() if key in accepted}))
    except Exception as error:  # each of its classes has its own for files that are not there
        raise ValueError(f"cannot be read from data.root={root}: {one_line(error)}") from error


def _digits(sklearn: Any) -> Dataset:
    """8 x 8 images of handwritten digits, 0 to 16; which one, whether it is odd, and how much ink it took."""
    digits = sklearn.load_digits()
    images, labels = tensor("inputs", digits.images), tensor("target", digits.target)
    targets = {
        "class": Target(labels, 10),
        "parity": Target(labels % 2, 2, ("even", "odd")),
        "ink": Target(images.mean((1, 2)) / 16),
    }
    return Dataset(images, targets, spaces.Box(0, 16, (8, 8), np.float32))


def _classes(name: str) -> Callable[[Any], Dataset]:
    def make(sklearn: Any) -> Dataset:
        data = getattr(sklearn, f"load_{name}")()
        names = [str(each) for each in data.target_names]
        return from_arrays(data.data, {"class": data.target}, names={"class": names})

    return make


def _diabetes(sklearn: Any) -> Dataset:
    # Not scaled, which would be by the mean and deviation of validation and test samples as well.
    data = sklearn.load_diabetes(scaled=False)
    return from_arrays(data.data, {"progression": data.target})


_BUNDLED: dict[str, Callable[[Any], Dataset]] = {
    "digits": _digits,
    "iris": _classes("iris"),
    "wine": _classes("wine"),
    "breast_cancer": _classes("breast_cancer"),
    "diabetes": _diabetes,
}


@contextmanager
def _named(config: DataConfig) -> Iterator[None]:
    """Errors say which data they are about."""
    try:
        yield
    except ImportError as error:
        raise ValueError(f"data.name={config.name} needs {error}") from None
    except ValueError as error:
        raise ValueError(f"data.name={config.name}: {error}") from error


def _import(module: str, install: str) -> Any:
    """A module that is no requirement; ImportError says how to get it."""
    try:
        return import_module(module)
    except ImportError:
        raise ImportError(install) from None
