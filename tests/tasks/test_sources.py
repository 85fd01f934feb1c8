import io
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from graftwork.configs.check import validate
from graftwork.configs.config import Config
from graftwork.tasks.arrays import as_dataset, from_arrays, from_torch
from graftwork.tasks.augment import AugmentConfig
from graftwork.tasks.dataset import Dataset
from graftwork.tasks.sources import DataConfig, divide, load, splits
from graftwork.training.seeding import Seeds

N, D, T = 6, 3, 4
INPUTS = np.arange(N * D, dtype=np.float32).reshape(N, D)
LABELS = np.array([0, 1, 2, 0, 1, 2])


class Run(Config):
    data: DataConfig


def config(name: str = "digits", **fields: object) -> DataConfig:
    return validate(Run, {"data": {"name": str(name), **fields}}).data


def saved(path: Path, **arrays: object) -> str:
    np.savez(path / "own.npz", **arrays)
    return str(path / "own.npz")


def test_digits_are_images_with_a_class_its_parity_and_the_ink():
    data = load(config("digits"))
    assert (data.inputs.shape, data.inputs.dtype) == ((1797, 8, 8), torch.float32)
    assert data.space == spaces.Box(0, 16, (8, 8), np.float32)
    assert (data.inputs.min(), data.inputs.max()) == (0, 16)
    assert list(data.targets) == ["class", "parity", "ink"]
    label, parity, ink = data.targets.values()
    assert (label.num_classes, parity.num_classes, ink.num_classes) == (10, 2, None)
    assert label.values[:12].tolist() == [*range(10), 0, 1]
    assert torch.equal(parity.values, label.values % 2)
    assert parity.names == ("even", "odd")
    assert torch.allclose(ink.values, data.inputs.sum((1, 2)) / 64 / 16)


@pytest.mark.parametrize(
    ("name", "shape", "target", "names"),
    [
        ("iris", (150, 4), "class", ("setosa", "versicolor", "virginica")),
        ("wine", (178, 13), "class", ("class_0", "class_1", "class_2")),
        ("breast_cancer", (569, 30), "class", ("malignant", "benign")),
        ("diabetes", (442, 10), "progression", ()),
    ],
)
def test_sets_of_scikit_learn_are_there(name, shape, target, names):
    data = load(config(name))
    assert data.inputs.shape == shape
    assert list(data.targets) == [target]
    assert data.targets[target].names == names
    assert data.targets[target].values.dtype == (torch.int64 if names else torch.float32)


def test_diabetes_comes_unscaled_so_that_scaling_can_be_fitted_on_the_training_part():
    assert load(config("diabetes")).inputs[0, :3].tolist() == pytest.approx([59, 2, 32.1])


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("digits", "sklearn.datasets", "data.name=digits needs scikit-learn: pip install 'graftwork[data]'"),
        (
            "torchvision:MNIST",
            "torchvision.datasets",
            "data.name=torchvision:MNIST needs torchvision: pip install torchvision",
        ),
    ],
)
def test_package_that_is_missing_is_named(name, module, message, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load(config(name))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"name": "digts"},
            "data.name: 'digts' must be one of digits, .* or transitions:ENV_ID; did you mean digits?",
        ),
        ({"name": "torchvision:"}, "data.name: 'torchvision:' must be one of"),
        ({"name": "iris", "validation": 0.7, "test": 0.3}, "data: validation=0.7 and test=0.3: their sum must be less"),
        ({"name": "iris", "validation": 1.0}, "data.validation=1.0: must be less than 1"),
        ({"name": "iris", "test": -0.1}, "data.test=-0.1: must be greater than or equal to 0"),
        ({"name": "iris", "per_class": 0}, "data.per_class=0: must be greater than 0"),
        ({"name": "iris", "classes": [1]}, "data.classes"),
        (
            {"name": "iris", "augment": {"flp": True}},
            "data.augment.flp=true: unknown field; did you mean",
        ),
    ],
)
def test_wrong_field_is_named(fields, message):
    with pytest.raises(ValueError, match=f"^{message}".replace("?", r"\?")) as error:
        validate(Run, {"data": fields})
    assert "\n" not in str(error.value)


def test_chosen_classes_are_numbered_anew_and_so_few_are_left_to_train_on():
    parts = splits(config("digits", classes=[5, 6, 7, 8, 9], per_class=10), Seeds(3))
    train = parts.train.targets["class"]
    assert train.values.bincount().tolist() == [10] * 5
    assert train.names == ("5", "6", "7", "8", "9")
    # 896 of the 1797 are 5 to 9: 0.15 and 0.25 of them, whatever is left to train on.
    assert (len(parts.validation), len(parts.test)) == (134, 224)
    assert torch.equal(parts.train.targets["parity"].values, (train.values + 5) % 2)


def test_few_are_drawn_from_the_training_part_of_the_same_seed():
    def rows(data: Dataset) -> set[tuple[float, ...]]:
        return set(map(tuple, data.inputs.flatten(1).tolist()))

    few, all_ = (splits(config("digits", per_class=n), Seeds(3)) for n in (5, None))
    assert rows(few.train) < rows(all_.train)
    assert rows(few.test) == rows(all_.test)


def test_split_follows_the_runs_seed_unless_it_has_one_of_its_own():
    def test_part(seed: int, **fields: object) -> list[list[float]]:
        return splits(config("iris", **fields), Seeds(seed)).test.inputs.tolist()

    assert test_part(1) == test_part(1)
    assert test_part(1) != test_part(2)
    assert test_part(1, split_seed=7) == test_part(2, split_seed=7) == test_part(7)


def test_share_of_zero_gives_no_split():
    parts = splits(config("iris", validation=0.0, test=0.0), Seeds(0))
    assert (len(parts.train), parts.validation, parts.test) == (150, None, None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": (1, 12)}, "data.name=iris: classes=[1, 12]: 12 is no class of 'class': 0 to 2"),
        ({"per_class": 50}, "data.name=iris: per_class=50: class 'setosa' has only "),
        ({"augment": {"flip": True}}, "data.augment: takes images [H, W], [C, H, W] or [H, W, C], got the shape [4]"),
        ({"name": "diabetes", "classes": (0, 1)}, "data.name=diabetes: target 'progression': is numbers"),
    ],
)
def test_what_the_data_cannot_give_is_said_in_one_line(fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as error:
        splits(config(**{"name": "iris", **fields}), Seeds(0))
    assert "\n" not in str(error.value)


def test_file_holds_inputs_and_an_array_for_each_target(tmp_path):
    flags, numbers = LABELS > 0, np.linspace(0, 1, N)
    data = load(config(saved(tmp_path, kind=LABELS.astype(np.uint8), inputs=INPUTS, flag=flags, level=numbers)))
    assert list(data.targets) == ["kind", "flag", "level"]
    assert [target.num_classes for target in data.targets.values()] == [3, 2, None]
    assert data.targets["kind"].values.tolist() == LABELS.tolist()
    assert data.targets["flag"].values.tolist() == flags.tolist()
    assert data.targets["level"].values.tolist() == pytest.approx(numbers.tolist())
    assert data.inputs.tolist() == INPUTS.tolist()


def test_file_with_lengths_holds_sequences(tmp_path):
    words = np.arange(N * T).reshape(N, T) % 5
    tags = np.where(words == 4, -1, words)  # -1 is padding
    lengths = (words != 4).cumprod(1).sum(1).clip(1)
    words[:, 0] = words[:, 0] % 4
    tags[:, 0] = words[:, 0]
    data = load(config(saved(tmp_path, inputs=words, tag=tags, lengths=lengths)))
    assert data.space == spaces.Discrete(4)
    assert data.targets["tag"].num_classes == 4
    assert data.lengths is not None
    assert data.lengths.tolist() == lengths.tolist()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"input": INPUTS, "kind": LABELS},
            "has no array 'inputs'; it has input, kind; should input be called inputs?",
        ),
        ({}, "has no array 'inputs'; it has none"),
        ({"inputs": INPUTS}, "has no target: beside 'inputs' and 'lengths'"),
        ({"inputs": INPUTS, "kind": LABELS[:5]}, "target 'kind': the shape is [5], but there are 6 inputs"),
        ({"inputs": INPUTS, "kind": LABELS - 1}, "target 'kind': sample 0 is -1; allowed: 0 to 1"),
        ({"inputs": INPUTS, "kind": LABELS + 10**9}, "target 'kind': the number 1000000002 occurs"),
        ({"inputs": INPUTS, "kind": LABELS.astype(str)}, "target 'kind': must be numbers, got <U21 (text and objects"),
        ({"inputs": INPUTS.astype("datetime64[s]"), "kind": LABELS}, "inputs: must be numbers, got datetime64[s]"),
        ({"inputs": INPUTS.astype(object), "kind": LABELS}, "holds Python objects, which could run code when read"),
        ({"inputs": INPUTS * np.float32("nan"), "kind": LABELS}, "inputs: sample 0, entry [0] is nan; must be finite"),
    ],
)
def test_file_that_cannot_be_trained_on_is_named_in_one_line(arrays, message, tmp_path):
    name = saved(tmp_path, **arrays)
    with pytest.raises(ValueError, match=f"^data.name={re.escape(name)}: {re.escape(message)}") as error:
        load(config(name))
    assert "\n" not in str(error.value)


def test_file_that_is_not_there_or_no_archive_is_named(tmp_path):
    for name, content, message in [
        ("none.npz", None, "no such file"),
        ("text.npz", b"a,b\n1,2\n", "is damaged, or was not written by numpy.savez"),
        ("empty.npz", b"", "is damaged"),
        ("zip.npz", b"PK\x03\x04", "is damaged"),
    ]:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^data.name={re.escape(str(path))}: {message}"):
            load(config(str(path)))
    np.save(tmp_path / "lone.npy", INPUTS)
    (tmp_path / "lone.npy").rename(tmp_path / "lone.npz")
    with pytest.raises(ValueError, match=r"lone.npz: is damaged, or was not written by numpy.savez$"):
        load(config(tmp_path / "lone.npz"))
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(ValueError, match=r"folder.npz: Is a directory$"):
        load(config(tmp_path / "folder.npz"))


def archive(compressed: bool) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, inputs=INPUTS, kind=LABELS)
    return file.getvalue()


ARCHIVES = {compressed: archive(compressed) for compressed in (False, True)}


@given(compressed=st.booleans(), place=st.integers(0, 10_000), bit=st.integers(0, 7), cut=st.booleans())
def test_damaged_file_gives_its_numbers_or_one_line(tmp_path_factory, compressed, place, bit, cut):
    damaged = bytearray(ARCHIVES[compressed])
    place %= len(damaged)
    if cut:
        del damaged[place:]
    else:
        damaged[place] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(damaged)
    try:
        data = load(config(str(path)))
    except ValueError as error:
        message = str(error)
        assert message.startswith(f"data.name={path}: ")
        assert "\n" not in message
    else:  # what was damaged is no number: a date, a flag
        assert np.array_equal(data.inputs, INPUTS)
        assert data.targets[data.main].values.tolist() == LABELS.tolist()


def test_lone_target_is_called_after_what_it_is():
    assert list(from_arrays(INPUTS, LABELS).targets) == ["class"]
    assert list(from_arrays(torch.from_numpy(INPUTS), torch.from_numpy(LABELS / 2)).targets) == ["value"]


@pytest.mark.parametrize(
    ("inputs", "lengths", "space", "shape"),
    [
        (INPUTS.astype(np.float64), None, spaces.Box(-np.inf, np.inf, (D,)), (N, D)),
        (INPUTS.astype(np.int64), None, spaces.Box(-np.inf, np.inf, (D,)), (N, D)),
        (np.zeros((N, 8, 9, 3), np.uint8), None, spaces.Box(0, 255, (8, 9, 3), np.uint8), (N, 8, 9, 3)),
        (np.zeros((N, T, D)), None, spaces.Box(-np.inf, np.inf, (T, D)), (N, T, D)),  # no sequences without lengths
        (np.zeros((N, T, D)), np.full(N, T), spaces.Box(-np.inf, np.inf, (D,)), (N, T, D)),
        (np.full((N, T), 7), np.full(N, T), spaces.Discrete(8), (N, T)),
        (np.zeros((N, T), np.float16), np.full(N, T), spaces.Box(-np.inf, np.inf, (1,)), (N, T, 1)),
        (np.zeros(N), None, spaces.Box(-np.inf, np.inf, (1,)), (N, 1)),
        (np.arange(N), None, spaces.Box(-np.inf, np.inf, (1,)), (N, 1)),
    ],
)
def test_space_follows_from_the_arrays(inputs, lengths, space, shape):
    data = from_arrays(inputs, LABELS, lengths=lengths)
    assert data.space == space
    assert data.inputs.shape == shape


def test_given_space_says_what_the_numbers_are():
    words = np.zeros((N, D), np.int32)
    data = from_arrays(words, LABELS, space=spaces.MultiDiscrete([9] * D))
    assert (data.inputs.dtype, data.space) == (torch.int64, spaces.MultiDiscrete([9] * D))
    assert from_arrays(words[:, 0], LABELS, space=spaces.Discrete(3)).inputs.shape == (N,)


def test_padding_implies_neither_tokens_nor_classes():
    words, tags = np.zeros((N, T), np.int64), np.ones((N, T), np.int64)
    words[:, 2:], tags[:, 2:] = 10**12, 255
    data = from_arrays(words, {"tag": tags}, lengths=np.full(N, 2))
    assert data.space == spaces.Discrete(1)
    assert data.targets["tag"].num_classes == 2


def test_names_give_the_number_of_classes():
    names = ("a", "b", "c", "d")
    target = from_arrays(INPUTS, {"kind": LABELS}, names={"kind": names}).targets["kind"]
    assert (target.num_classes, target.names) == (4, names)
    with pytest.raises(ValueError, match=r"^names: there is no target 'knd'; did you mean kind\?$"):
        from_arrays(INPUTS, {"kind": LABELS}, names={"knd": names})
    with pytest.raises(ValueError, match="sample 2 is 2; allowed: 0 to 1"):
        from_arrays(INPUTS, {"kind": LABELS}, names={"kind": names[:2]})


def test_arrays_of_any_memory_are_copied():
    own = INPUTS.copy()
    data = from_arrays(own, LABELS)
    own[:] = -1
    assert data.inputs.tolist() == INPUTS.tolist()
    frozen = INPUTS.copy()
    frozen.flags.writeable = False
    for odd in (frozen, INPUTS[::-1], INPUTS.astype(">f8"), np.asfortranarray(INPUTS), INPUTS.astype(np.longdouble)):
        assert from_arrays(odd, LABELS.astype(">i2")).inputs.tolist() == np.asarray(odd, np.float32).tolist()


class Pairs:
    """A torch-style data set of a list."""

    def __init__(self, pairs: list[object], classes: object = None) -> None:
        self.pairs = pairs
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int, /) -> object:
        return self.pairs[index]


def test_torch_data_set_is_read_with_its_names_of_classes():
    data = from_torch(Pairs([(torch.full((3, 4, 5), i / 10), i % 2) for i in range(N)], ["cat", "dog"]))
    assert data.inputs.shape == (N, 3, 4, 5)
    assert torch.allclose(data.inputs[:, 0, 0, 0], torch.arange(N) / 10)
    assert data.targets["class"].values.tolist() == [0, 1] * 3
    assert data.targets["class"].names == ("cat", "dog")
    assert from_torch(Pairs([(np.zeros((4, 5), np.uint8), 0.5)], ["cat"])).targets["value"].values.tolist() == [0.5]
    assert from_torch(Pairs([(INPUTS[0], torch.tensor(1))], classes=7)).targets["class"].names == ("0", "1")


def test_data_set_that_gives_the_same_memory_again_is_read_rightly():
    class Reusing(Pairs):
        buffer = torch.zeros(2)

        def __getitem__(self, index: int, /) -> object:
            return self.buffer.fill_(index), 0

    assert from_torch(Reusing([None] * 3)).inputs.tolist() == [[0, 0], [1, 1], [2, 2]]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "data set Pairs: must have a length, of at least 1"),
        ([(INPUTS[0], 0), INPUTS[1]], "sample 1: must be a pair (input, label), got ndarray"),
        ([(INPUTS[0], 0), (INPUTS[1], 1, 2)], "sample 1: must be a pair"),
        ([(INPUTS[0], 0), (INPUTS[1, :2], 0)], "sample 1: its input is float32[2], that of sample 0 float32[3]"),
        ([(INPUTS[0], 0), (INPUTS[1], 0.5)], "sample 1: its label is float64[], that of sample 0 int64[]"),
        ([(INPUTS[0], "cat")], "target: must be numbers, got <U3"),
        ([(None, 0)], "inputs: must be numbers, got object"),
    ],
)
def test_sample_that_is_no_pair_like_the_first_is_named(pairs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        from_torch(Pairs(pairs))


def test_data_may_come_in_any_form():
    own = from_arrays(INPUTS, LABELS)
    assert as_dataset(own) is own
    for data in (
        (INPUTS, LABELS),
        (torch.from_numpy(INPUTS), {"kind": LABELS}),
        Pairs(list(zip(INPUTS, LABELS, strict=True))),
    ):
        assert as_dataset(data).inputs.tolist() == INPUTS.tolist()
    with pytest.raises(ValueError, match=r"^data: must be a pair \(inputs, targets\), got 3 values$"):
        as_dataset((INPUTS, LABELS, LABELS))


def test_given_data_are_divided_as_the_config_says():
    parts = divide(from_arrays(np.zeros((20, D)), np.arange(20) % 2), config("iris", per_class=3), Seeds(0))
    assert [len(part) for part in parts if part] == [6, 3, 5]


@pytest.fixture
def torchvision(monkeypatch) -> ModuleType:
    """A stand-in with a data set that is there, one that is not, and one that asks for more than a folder."""
    module = ModuleType("torchvision.datasets")

    class MNIST(Pairs):
        def __init__(self, root: str, train: bool = True, download: bool = True) -> None:
            assert not download
            super().__init__([(np.full((2, 2), i, np.uint8), i % 2) for i in range(N)], ["even", "odd"])
            self.root = root

    class Absent(Pairs):
        def __init__(self, root: str, download: bool = False) -> None:
            raise RuntimeError("Dataset not found.\nYou can use download=True to download it")

    class Asking(Pairs):
        def __init__(self, root: str, more: int) -> None: ...

    module.__all__ = ["MNIST", "Absent", "Asking"]
    module.MNIST, module.Absent, module.Asking = MNIST, Absent, Asking
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)
    return module


@pytest.mark.usefixtures("torchvision")
def test_torchvision_set_is_found_by_its_name():
    data = load(config("torchvision:MNIST"))
    assert (data.inputs.shape, data.inputs.dtype) == ((N, 2, 2), torch.uint8)
    assert data.targets["class"].names == ("even", "odd")


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MNITS", "torchvision.datasets has no 'MNITS'; did you mean MNIST?"),
        ("Absent", "cannot be read from data.root=here: Dataset not found. You can use download=True"),
        ("Asking", "cannot be read from data.root=here: "),
    ],
)
def test_torchvision_set_that_is_not_there_is_named(name, message):
    with pytest.raises(ValueError, match=re.escape(f"data.name=torchvision:{name}: {message}")) as error:
        load(config(f"torchvision:{name}", root="here"))
    assert "\n" not in str(error.value)


def test_sequences_of_images_are_not_augmented(tmp_path):
    name = saved(tmp_path, inputs=np.zeros((N, T, 4, 4)), kind=LABELS, lengths=np.full(N, T))
    with pytest.raises(ValueError, match=r"^data\.augment: takes images, got sequences"):
        load(config(name, augment={"shift": 1}))
    assert config(name).augment == AugmentConfig()
