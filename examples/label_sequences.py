"""Labels for every row of sequences: an LSTM learns whether the ones it has seen so far are odd in number.

    python examples/label_sequences.py

No network without a memory can: the label of a row depends on all rows before it. Sequences differ in length, and
what is behind a sequence's end counts for nothing.
"""

import numpy as np

import graftwork as gw
from graftwork.networks import LSTMConfig, MLPConfig
from graftwork.tasks import DataConfig, SupervisedConfig

RUN = "runs/parity"
SAMPLES, LONGEST = 4_000, 12


def sequences(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bits [N, T, 1], the parity of each prefix [N, T], and how many rows each sequence has [N]."""
    generator = np.random.default_rng(seed)
    bits = generator.integers(0, 2, (samples, LONGEST))
    lengths = generator.integers(1, LONGEST + 1, samples)
    return bits[..., np.newaxis].astype(np.float32), bits.cumsum(1) % 2, lengths


def main() -> None:
    bits, parity, lengths = sequences(SAMPLES, seed=0)
    config = gw.TaskRunConfig(
        data=DataConfig(validation=0.1, test=0.1),
        task=SupervisedConfig(
            encoder=LSTMConfig(hidden_size=32, inner=MLPConfig(hidden=(16,))), normalise="none", learning_rate=5e-3
        ),
        epochs=40,
    )
    data = gw.from_arrays(bits, {"parity": parity}, names={"parity": ["even", "odd"]}, lengths=lengths)
    run = gw.train(config, data=data, run_dir=RUN)
    print(gw.evaluate(RUN, data=data))

    fresh, expected, rows = sequences(1_000, seed=1)
    told = run.model.predict(fresh, lengths=rows)  # [N, T]
    inside = np.arange(LONGEST) < rows[:, np.newaxis]
    print(f"sequences never seen: {np.mean(told[inside] == expected[inside]):.3f} of the rows right")


if __name__ == "__main__":
    main()
