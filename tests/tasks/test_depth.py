"""What twenty layers do to a gradient before anything is learnt, on the digits: supervised/depth in numbers."""

import pytest
import torch

from graftwork.engine.diagnostics import measure
from graftwork.losses import cross_entropy
from graftwork.networks import MLPConfig, initialise, mode
from graftwork.tasks import DataConfig, load
from graftwork.tasks.network import TaskNetwork, make_heads
from graftwork.tasks.schema import schema_of

DEPTH, WIDTH, BATCH = 20, 64, 64


def gradient_norms(norm: str, initialisation: str, seed: int) -> list[float]:
    """Of each layer's weights, from the input on."""
    data = load(DataConfig(name="digits"))
    schema = schema_of({"class": data}, {"class": "class"}, {"class": None})
    generator = torch.Generator().manual_seed(seed)
    encoder = MLPConfig(hidden=(WIDTH,) * DEPTH, norm=norm).build(data.space)
    heads = make_heads(encoder.out_features, schema)
    initialise(encoder, initialisation, generator)
    initialise(heads, initialisation, generator)
    network = TaskNetwork(encoder, heads, schema)
    rows = torch.randperm(len(data), generator=generator)[:BATCH]
    inputs = (data.inputs - data.inputs.mean()) / data.inputs.std()
    batch = (inputs[rows].unsqueeze(0), data.targets["class"].values[rows])

    def loss(network, batch):
        observation, target = batch
        features = network.features(observation, torch.ones(1, BATCH, dtype=torch.bool))
        return cross_entropy(network.heads["class"](features[0]), target).mean(), {}

    names = [
        name for name, parameter in network.named_parameters() if name.startswith("encoder") and parameter.ndim > 1
    ]
    with mode(network, training=True):
        metrics = measure(loss, network, names, batch)
    return [metrics[f"gradient_norm/{name}"].item() for name in names]


def test_small_gaussian_weights_let_no_gradient_through():
    assert gradient_norms("none", "gaussian", 0)[0] == 0.0


@pytest.mark.parametrize("initialisation", ["xavier", "he"])
def test_batch_norm_makes_gradients_grow_towards_the_input(initialisation):
    # Yang et al. 2019: by sqrt(pi / (pi - 1)) = 1.21 a ReLU layer with batch norm, so 1.21**19 = 38 over nineteen.
    ratios = [norms[0] / norms[-1] for norms in (gradient_norms("batch", initialisation, seed) for seed in range(5))]
    assert 25 < sum(ratios) / len(ratios) < 50
