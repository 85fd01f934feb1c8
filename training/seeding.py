"""Every stream of random numbers, derived from the run seed and the name of its owner."""

import zlib
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Seeds:
    """The run seed; distinct names give independent streams."""

    seed: int

    def generator(self, name: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator of its own for `name` on `device`."""
        entropy = np.random.SeedSequence((self.seed, zlib.crc32(name.encode())))
        # Masked to 63 bits: manual_seed takes a signed integer.
        return torch.Generator(device).manual_seed(int(entropy.generate_state(1, np.uint64)[0]) >> 1)
