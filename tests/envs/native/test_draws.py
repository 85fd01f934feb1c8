import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graftwork.envs.native.draws import chance, child, env_keys, uniform


def splitmix64(seed: int, index: int) -> int:
    """Number `index` of the published generator, in whole numbers of any size."""
    mask = 2**64 - 1
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return z ^ z >> 31


def signed(bits: int) -> int:
    return bits - 2**64 if bits >= 2**63 else bits


def test_numbers_are_those_that_are_published_for_this_seed() -> None:
    numbers = child(torch.tensor(1234567), torch.arange(5)).tolist()
    assert [number % 2**64 for number in numbers] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**62))
def test_numbers_are_those_of_the_generator_for_every_key(key: int, index: int) -> None:
    assert int(child(torch.tensor(key), torch.tensor(index))) == signed(splitmix64(key, index))


def test_a_key_follows_from_seed_stream_and_environment() -> None:
    seed, stream, env = 11, 2, 3
    expected = 0
    for part in (seed, stream, env):
        expected = splitmix64(expected, part)
    assert env_keys(seed, stream, 5)[env].tolist() == signed(expected)


def test_keys_do_not_depend_on_how_many_there_are() -> None:
    assert torch.equal(env_keys(7, 1, 1000)[:3], env_keys(7, 1, 3))


def test_addresses_lead_to_distinct_keys() -> None:
    keys = torch.cat([env_keys(seed, stream, 50) for seed in (*range(40), 2**62, 2**64 - 1) for stream in range(3)])
    assert len(keys.unique()) == len(keys)


def test_shares_of_numbers_are_even() -> None:
    """Of 2**18 numbers in 256 boxes the chi-squared statistic lies within 5 standard deviations of its mean, 255.

    For the bits from the top on, as `uniform` and `chance` take them, and those at the bottom, along draws of one
    environment, along episodes, and along environments.
    """
    count = 2**18
    along_draws = child(env_keys(0, 0, 1), torch.arange(count))
    along_episodes = child(env_keys(0, 0, 1), torch.arange(count) << 32)
    along_envs = child(env_keys(0, 0, count), torch.zeros(1, dtype=torch.int64))
    for numbers in (along_draws, along_episodes, along_envs):
        for boxes in (numbers >> 56 & 255, numbers >> 28 & 255, numbers & 255):
            found = torch.bincount(boxes, minlength=256).double()
            statistic = float(((found - count / 256) ** 2).sum()) / (count / 256)
            assert abs(statistic - 255) < 5 * (2 * 255) ** 0.5


def test_neighbours_are_independent() -> None:
    """Of 2**16 pairs of neighbours correlations are below 5 / 2**8: draws, episodes, environments, seeds, streams."""
    count = 2**16

    def places(numbers: torch.Tensor) -> np.ndarray:
        return uniform(numbers, -1.0, 1.0).numpy()

    zero = torch.zeros(1, dtype=torch.int64)
    draws = child(env_keys(0, 0, 1), torch.arange(count + 1))
    episodes = child(env_keys(0, 0, 1), torch.arange(count + 1) << 32)
    envs = child(env_keys(0, 0, count + 1), zero)
    one, other = child(env_keys(0, 0, count), zero), child(env_keys(1, 0, count), zero)
    streams = child(env_keys(0, 1, count), zero)
    pairs = [
        (draws[1:], draws[:-1]),
        (episodes[1:], episodes[:-1]),
        (envs[1:], envs[:-1]),
        (one, other),
        (one, streams),
    ]
    for first, second in pairs:
        assert abs(np.corrcoef(places(first), places(second))[0, 1]) < 5 / count**0.5


def test_one_bit_of_the_address_changes_half_of_the_bits() -> None:
    keys = env_keys(3, 0, 4000)
    numbers = child(keys, torch.tensor([5]))
    for bit in (0, 1, 31, 32, 40):
        others = child(keys, torch.tensor([5 ^ 1 << bit]))
        flips = ((numbers ^ others).unsqueeze(1) >> torch.arange(64) & 1).double()
        assert abs(float(flips.mean()) - 0.5) < 5 * 0.5 / flips.numel() ** 0.5
        assert abs(flips.mean(0) - 0.5).max() < 5 * 0.5 / 4000**0.5


def test_uniform_numbers_fill_their_range() -> None:
    lowest, highest = torch.tensor([-(2**63), 2**63 - 1])
    assert uniform(lowest, -0.6, -0.4).item() == pytest.approx(-0.6, abs=1e-7)
    assert uniform(highest, -0.6, -0.4).item() == pytest.approx(-0.4, abs=1e-7)
    assert uniform(torch.tensor(0), -3.0, 5.0).item() == 1.0
    found = uniform(child(env_keys(0, 0, 1), torch.arange(10_000)), -0.05, 0.05)
    assert found.dtype == torch.float32
    assert -0.05 <= found.min() < -0.0499
    assert 0.0499 < found.max() <= 0.05


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_chances_are_what_was_asked(probability: float) -> None:
    found = chance(child(env_keys(0, 0, 1), torch.arange(100_000)), probability).double().mean()
    assert abs(float(found) - probability) <= 5 * (probability * (1 - probability) / 100_000) ** 0.5


def test_certainty_and_impossibility_are_exact() -> None:
    extremes = torch.tensor([-(2**63), -1, 0, 2**63 - 1])
    assert chance(extremes, 1.0).all()
    assert not chance(extremes, 0.0).any()
