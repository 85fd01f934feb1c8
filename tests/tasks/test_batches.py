from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from graftwork.tasks.augment import AugmentConfig
from graftwork.tasks.batches import Batches, MultiBatches, Samples, in_order
from graftwork.tasks.dataset import Dataset, Target
from graftwork.training import checkpoint

H, W = 4, 5


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(num: int) -> Dataset:
    """Images and targets that say which sample they are."""
    number = torch.arange(num)
    inputs = (number.view(-1, 1, 1) * 100 + torch.arange(H * W).view(H, W)).float()
    targets = {"class": Target(number, num), "value": Target(torch.stack((number, -number, number * 2), 1).float())}
    return Dataset(inputs, targets, spaces.Box(-np.inf, np.inf, (H, W), np.float32))


def batches(num: int, batch_size: int, seed: int = 0, **options: AugmentConfig | tuple[str, ...]) -> Batches:
    return Batches(numbered(num), batch_size, seeded(seed), seeded(seed + 1), **options)


def numbers(samples: Samples) -> list[int]:
    return samples.targets[0].tolist()


def tensors(batch: Samples | tuple[Samples, ...]) -> list[torch.Tensor]:
    several = [batch] if isinstance(batch, Samples) else batch
    return [tensor for each in several for tensor in (each.observation, each.valid, *each.targets)]


def same(one: Samples | tuple[Samples, ...], other: Samples | tuple[Samples, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 4), st.integers(0, 5))
def test_every_epoch_hands_out_each_sample_exactly_once(num, batch_size, epochs, seed):
    source = batches(num, batch_size, seed)
    assert source.epoch_samples == num
    for epoch in range(1, epochs + 1):
        seen: list[int] = []
        while len(seen) < num:
            batch = numbers(source.next())
            seen += batch
            assert len(batch) == batch_size or len(seen) == num, "only the last may be short"
            assert source.num_steps == (epoch - 1) * num + len(seen)
        assert sorted(seen) == list(range(num))
        assert len(batch) >= source.smallest_batch
    assert source.finished() == []


@pytest.mark.parametrize(("num", "batch_size", "smallest"), [(7, 3, 1), (6, 3, 3), (2, 3, 2), (8, 3, 2)])
def test_smallest_batch_of_an_epoch_is_told(num, batch_size, smallest):
    source = batches(num, batch_size)
    assert source.smallest_batch == smallest
    assert min(len(numbers(source.next())) for _ in range(10)) == smallest


def test_epochs_have_orders_of_their_own_and_the_generator_decides_them():
    one, again, other = batches(30, 30, 0), batches(30, 30, 0), batches(30, 30, 1)
    orders = [[numbers(source.next()) for _ in range(3)] for source in (one, again, other)]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders[0] + orders[2]}) == 6
    assert orders[0][0] != list(range(30))


@pytest.mark.parametrize("augment", [AugmentConfig(), AugmentConfig(shift=1, flip=True, crop=2)])
@given(num=st.integers(1, 20), batch_size=st.integers(1, 7), cut=st.integers(0, 25))
def test_resumed_source_continues_with_the_identical_batches(augment, num, batch_size, cut):
    source = batches(num, batch_size, augment=augment)
    for _ in range(cut):
        source.next()
    state = source.state_dict()
    expected = [source.next() for _ in range(8)]
    resumed = batches(num, batch_size, 5, augment=augment)
    resumed.next()
    resumed.load_state_dict(state)
    assert all(same(resumed.next(), batch) for batch in expected)
    assert resumed.num_steps == source.num_steps


def test_state_survives_a_checkpoint(tmp_path: Path):
    def make(seed: int) -> MultiBatches:
        return MultiBatches(
            {"a": batches(7, 3, seed, augment=AugmentConfig(crop=1)), "b": batches(11, 2, seed + 10)},
        )

    source = make(0)
    for _ in range(4):
        source.next()
    path = checkpoint.save(tmp_path, source.num_steps, {"source": source.state_dict()}, 1, {})
    expected = [source.next() for _ in range(12)]
    resumed = make(5)
    resumed.load_state_dict(checkpoint.load(path).state["source"])
    assert resumed.num_steps == 8
    assert all(same(resumed.next(), batch) for batch in expected)


def test_another_batch_size_goes_on_with_what_the_epoch_has_left():
    source = batches(10, 3)
    seen = numbers(source.next())
    resumed = batches(10, 4, 5)
    resumed.load_state_dict(source.state_dict())
    seen += numbers(resumed.next()) + numbers(resumed.next())
    assert sorted(seen) == list(range(10))


def test_state_of_other_data_is_refused_and_changes_nothing():
    source, twin, other = batches(10, 3), batches(10, 3), batches(11, 3)
    other.next()
    with pytest.raises(ValueError, match=r"^data: the checkpoint was trained on 11 samples, these are 10; leave"):
        source.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match=r"missing \['order'\], unexpected \['orders'\]"):
        source.load_state_dict({"orders" if key == "order" else key: v for key, v in other.state_dict().items()})
    assert same(source.next(), twin.next())


def test_parts_of_a_sample_stay_together_and_targets_come_in_the_order_asked_for():
    samples = batches(7, 5).next()
    number = samples.targets[0]
    assert samples.observation.shape == (1, 5, H, W)
    assert torch.equal(samples.observation[0, :, 0, 0], number.float() * 100)
    assert torch.equal(samples.targets[1], torch.stack((number, -number, number * 2), 1).float())
    assert torch.equal(samples.valid, torch.ones(1, 5, dtype=torch.bool))
    assert same(batches(7, 5, targets=("value", "class")).next(), samples._replace(targets=samples.targets[::-1]))
    assert batches(7, 5, targets=("value",)).next().targets[0].shape == (5, 3)
    assert batches(7, 5, targets=()).next().targets == ()
    with pytest.raises(ValueError, match="target 'clas': the data have none of that name; did you mean class"):
        batches(7, 5, targets=("clas",))


def test_sequences_are_time_major_with_their_padding_not_valid():
    num, time, size = 3, 4, 2
    inputs = torch.arange(1, num * time * size + 1).view(num, time, size).float()
    tags = torch.arange(num * time).view(num, time) % 5
    lengths = torch.tensor([2, 4, 1])
    targets = {"tag": Target(tags, 5), "class": Target(torch.arange(num), num), "pair": Target(torch.ones(num, time))}
    data = Dataset(inputs, targets, spaces.Box(-np.inf, np.inf, (size,), np.float32), lengths)
    samples = Batches(data, 2, seeded(0), seeded(1)).next()
    index = samples.targets[1]
    assert samples.observation.shape == (time, 2, size)
    assert samples.observation.is_contiguous()
    assert torch.equal(samples.observation, data.inputs[index].transpose(0, 1))
    assert torch.equal(samples.targets[0], data.targets["tag"].values[index].T)
    assert samples.targets[2].shape == (2, time), "numbers of a sample have no time"
    assert torch.equal(samples.valid.sum(0), lengths[index])
    assert torch.equal(samples.valid.int().sort(0, descending=True).values, samples.valid.int()), "padding comes last"


def test_augmentation_changes_neither_order_nor_targets():
    plain, augmented = batches(9, 4), batches(9, 4, augment=AugmentConfig(shift=2))
    for _ in range(5):
        before, after = plain.next(), augmented.next()
        assert torch.equal(before.targets[0], after.targets[0])
        assert not torch.equal(before.observation, after.observation)
        # The hundreds of a pixel still say whose it is.
        assert torch.equal(after.observation.long()[0, :, 0, 0] // 100, after.targets[0])


def test_what_cannot_be_augmented_is_refused_at_once():
    data = Dataset(torch.zeros(3, 4), {"value": Target(torch.zeros(3))}, spaces.Box(0, 1, (4,)))
    with pytest.raises(ValueError, match=r"^data\.augment: takes images"):
        Batches(data, 2, seeded(0), seeded(1), augment=AugmentConfig(flip=True))
    with pytest.raises(ValueError, match=r"^batch_size=0: must be at least 1$"):
        Batches(data, 0, seeded(0), seeded(1))


def test_sources_of_other_sizes_begin_anew_while_steps_are_those_of_the_largest():
    source = MultiBatches({"small": batches(3, 2), "large": batches(10, 4), "equal": batches(10, 5)})
    assert (source.names, source.epoch_samples) == (("small", "large", "equal"), 10)
    seen: dict[str, list[int]] = {name: [] for name in source.names}
    steps = []
    for _ in range(6):
        batch = source.next()
        steps.append(source.num_steps)
        for name, samples in zip(source.names, batch, strict=True):
            seen[name] += numbers(samples)
    assert steps == [4, 8, 10, 14, 18, 20]
    assert [sorted(seen["small"][start : start + 3]) for start in (0, 3, 6)] == [[0, 1, 2]] * 3
    assert [sorted(seen["large"][start : start + 10]) for start in (0, 10)] == [list(range(10))] * 2
    assert len(seen["equal"]) == 30
    assert source.finished() == []


def test_sources_of_a_state_must_be_those_that_there_are():
    source = MultiBatches({"a": batches(3, 2)})
    with pytest.raises(ValueError, match=r"state of data: missing \['a'\], unexpected \['b'\]"):
        source.load_state_dict(MultiBatches({"b": batches(3, 2)}).state_dict())
    with pytest.raises(ValueError, match="there must be at least one source"):
        MultiBatches({})


def test_in_order_gives_each_sample_once_as_it_is():
    data = numbered(7)
    parts = list(in_order(data, 3, ("class",)))
    assert [numbers(samples) for samples in parts] == [[0, 1, 2], [3, 4, 5], [6]]
    assert torch.equal(torch.cat([samples.observation[0] for samples in parts]), data.inputs)


@pytest.mark.gpu
def test_everything_is_on_the_device_and_goes_on_there():
    def make(seed: int, generators: str) -> Batches:
        shuffling, augmenting = (torch.Generator(generators).manual_seed(seed + i) for i in range(2))
        augment = AugmentConfig(shift=1, crop=1, flip=True)
        return Batches(numbered(10), 4, shuffling, augmenting, augment=augment, device="cuda")

    for generators in ("cpu", "cuda"):
        source = make(0, generators)
        assert {tensor.device.type for tensor in tensors(source.next())} == {"cuda"}
        state = {key: v.cpu() if isinstance(v, torch.Tensor) else v for key, v in source.state_dict().items()}
        resumed = make(5, generators)
        resumed.load_state_dict(state)
        assert all(same(resumed.next(), source.next()) for _ in range(5))
    assert next(in_order(numbered(3), 2, device="cuda")).valid.device.type == "cuda"
