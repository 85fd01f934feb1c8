import numpy as np
import pytest
import torch
from gymnasium import spaces
from pydantic import TypeAdapter

from graftwork.networks import (
    AutoConfig,
    CombinedConfig,
    ConvConfig,
    EmbeddingConfig,
    EncoderConfig,
    ImpalaConfig,
    MLPConfig,
    config_for,
    encoder_for,
)
from graftwork.spaces import map_leaves, zeros

T, B = 2, 3


def box(*shape: int) -> spaces.Box:
    return spaces.Box(0, 1, shape)


def image(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


RULES = [
    (box(), MLPConfig()),
    (box(3), MLPConfig()),
    (box(1000), MLPConfig()),
    (image(128), MLPConfig()),
    (image(84, 84, 4), ConvConfig()),
    (image(3, 36, 36), ConvConfig()),
    (image(4, 36, 99), ConvConfig()),
    (box(36, 40), ConvConfig()),
    (image(3, 35, 36), ImpalaConfig()),
    (image(10, 10, 4), ImpalaConfig()),
    (box(8, 8), ImpalaConfig()),
    (box(8, 300), ImpalaConfig()),
    (image(3, 7, 40), MLPConfig()),
    (box(7, 300), MLPConfig()),
    (box(4, 40, 40, 3), MLPConfig()),
    (spaces.Discrete(64), MLPConfig()),
    (spaces.Discrete(65), EmbeddingConfig()),
    (spaces.Discrete(5, start=-2), MLPConfig()),
    (spaces.MultiDiscrete([3, 100]), MLPConfig()),
    (spaces.MultiBinary([2, 3]), MLPConfig()),
    (spaces.Text(9), EmbeddingConfig()),
    (spaces.Tuple([box(3), spaces.Discrete(65)]), CombinedConfig(encoders={"0": MLPConfig(), "1": EmbeddingConfig()})),
    (
        spaces.Dict({"far": spaces.Dict({"view": image(10, 10, 3)}), "near": box(2)}),
        CombinedConfig(
            encoders={"far": CombinedConfig(encoders={"view": ImpalaConfig()}), "near": MLPConfig()},
        ),
    ),
]


@pytest.mark.parametrize(("space", "expected"), RULES, ids=[" ".join(str(space).split()) for space, _ in RULES])
def test_each_space_gets_the_encoder_of_the_table_which_takes_its_observations(space, expected):
    assert config_for(space) == expected
    encoder = encoder_for(space)
    observation = zeros(space, T, B)
    features, _ = encoder(observation)
    assert features.shape == (T, B, encoder.out_features)
    rows = encoder.step(map_leaves(lambda leaf: leaf[0], observation), (), torch.zeros(B, dtype=torch.bool))[0]
    torch.testing.assert_close(rows, features[0])


def test_what_was_picked_can_be_written_down():
    space = spaces.Dict({"far": spaces.Dict({"view": image(10, 10, 3)}), "near": box(2)})
    chosen = config_for(space)
    assert TypeAdapter(EncoderConfig).validate_python(chosen.model_dump(mode="json")) == chosen


def test_kind_auto_builds_the_same():
    for space in (box(3), spaces.Discrete(100), spaces.Dict({"a": image(10, 10, 3), "b": box(2)})):
        auto, chosen = AutoConfig().build(space), encoder_for(space)
        assert type(auto) is type(chosen)
        auto.load_state_dict(chosen.state_dict())


@pytest.mark.parametrize(
    "space", [spaces.Sequence(box(2)), spaces.Dict({"a": box(2), "g": spaces.Graph(box(2), None)})]
)
def test_a_space_without_a_fixed_shape_is_one_line(space):
    with pytest.raises(ValueError, match=r"^observation space (Sequence|Graph)\(.* has no fixed shape") as caught:
        encoder_for(space)
    assert "\n" not in str(caught.value)
