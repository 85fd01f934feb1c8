"""Random bits by address: each number follows from a key and its index alone, so nothing has to be saved.

The generator is SplitMix64 (Steele, Lea & Flood 2014, Fast Splittable Pseudorandom Number Generators): number `index`
of the stream that is seeded with a key is one hash of both. Numbers are used as keys again: run seed, stream and
environment lead to a key, whose numbers are those of its episodes, 2**32 for each. They are int64, to be read as 64
unsigned bits, and the same on every device and for every number of environments.
"""

import torch
from torch import Tensor


def child(key: Tensor, index: Tensor) -> Tensor:
    """Numbers `index`, from 0 on, of the streams seeded with `key`; int64, of shapes that broadcast."""
    z = torch.add(key, index + 1, alpha=_GAMMA)
    # Shifts of int64 copy the sign, which the masks take off again.
    z = (z ^ (z >> 30 & 0x3_FFFF_FFFF)) * _FIRST
    z = (z ^ (z >> 27 & 0x1F_FFFF_FFFF)) * _SECOND
    return z ^ (z >> 31 & 0x1_FFFF_FFFF)


def env_keys(seed: int, stream: int, num_envs: int) -> Tensor:
    """Keys of the first environments of a stream of episodes, [num_envs], on the CPU."""
    key = torch.zeros((), dtype=torch.int64)
    for part in (seed, stream):
        key = child(key, torch.tensor(_signed(part)))
    return child(key, torch.arange(num_envs))


def uniform(bits: Tensor, low: float, high: float) -> Tensor:
    """float32 in [low, high], evenly over 2**24 places."""
    return (bits >> 40) * ((high - low) / 2**24) + (low + high) / 2


def chance(bits: Tensor, probability: float) -> Tensor:
    """bool, true with the probability, of which 0 and 1 are exact."""
    return (bits >> 11) < round(probability * 2**53) - 2**52


def _signed(bits: int) -> int:
    """The int64 with those 64 bits."""
    return (bits + 2**63) % 2**64 - 2**63


_GAMMA = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)
