import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from graftwork.networks import (
    GRU,
    LSTM,
    MLP,
    Combined,
    CombinedConfig,
    Encoder,
    GRUConfig,
    LSTMConfig,
    MLPConfig,
    TokenEmbedding,
)
from graftwork.spaces import leaves

T, B = 3, 5


def box(*shape: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


class Same(Encoder):
    """The observation as it is, flat; remembers what it was given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_features = width

    def encode(self, observation: Tensor | dict[str, Tensor]) -> Tensor:
        self.seen = observation
        if isinstance(observation, dict):
            return torch.cat([flat(leaf) for leaf in observation.values()], 1)
        return flat(observation)


def flat(leaf: Tensor) -> Tensor:
    return leaf.reshape(len(leaf), -1).float()


NESTED = spaces.Dict(
    {"b": box(2), "a": spaces.Dict({"x": box(3), "y": spaces.Tuple([box(), spaces.Discrete(4)])}), "a.x2": box(1)}
)


def some(space: spaces.Space, *lead: int) -> dict[str, Tensor]:
    return {
        name: torch.randint(2, (*lead, *leaf.shape)) if leaf.dtype == torch.int64 else torch.randn(*lead, *leaf.shape)
        for name, leaf in leaves(space).items()
    }


def test_features_stand_side_by_side_in_the_spaces_order():
    space = spaces.Tuple([box(2), box(3), box()])
    encoder = Combined(space, {"2": Same(1), "0": Same(2), "1": Same(3)})
    observation = some(space, T, B)
    features, state = encoder(observation)
    expected = torch.cat((observation["0"], observation["1"], observation["2"].unsqueeze(-1)), -1)
    assert torch.equal(features, expected)
    assert encoder.out_features == 6
    assert state == ()


def test_an_entry_that_is_a_dict_is_handed_on_with_its_own_names_and_no_other_that_looks_alike():
    parts = {"a": Same(5), "a.x2": Same(1), "b": Same(2)}
    encoder = Combined(NESTED, parts)
    observation = some(NESTED, T, B)
    features, _ = encoder(observation)
    assert features.shape == (T, B, 8)
    assert list(parts["a"].seen) == ["x", "y.0", "y.1"]
    assert torch.equal(parts["a"].seen["y.0"], observation["a.y.0"].flatten())
    assert torch.equal(parts["a.x2"].seen, observation["a.x2"].flatten(0, 1))


def test_keys_that_modules_use_themselves_are_fine():
    space = spaces.Dict({"keys": box(2), "forward": box(3), "type": box(1)})
    assert CombinedConfig().build(space)(some(space, T, B))[0].shape == (T, B, 3 * 64)


def test_entries_without_an_encoder_get_what_encoder_for_picks():
    space = spaces.Dict({"token": spaces.Discrete(100), "vector": box(3), "far": spaces.Dict({"text": spaces.Text(4)})})
    encoder = CombinedConfig(encoders={"vector": GRUConfig(hidden_size=7)}).build(space)
    by_key = dict(zip(space.spaces, encoder.encoders, strict=True))
    assert {key: type(part) for key, part in by_key.items()} == {
        "token": TokenEmbedding,
        "vector": GRU,
        "far": Combined,
    }
    assert encoder.out_features == 64 + 7 + 64


def test_a_joint_layer_mixes_them():
    space = spaces.Dict({"a": box(2), "b": box(3)})
    encoder = CombinedConfig(hidden=7, encoders={"a": MLPConfig(hidden=(4,))}).build(space)
    observation = some(space, T, B)
    features, _ = encoder(observation)
    plain = torch.cat([part(observation[key])[0] for key, part in zip("ab", encoder.encoders, strict=True)], -1)
    linear = encoder.joint[0]
    assert linear.in_features == 4 + 64
    torch.testing.assert_close(features, linear(plain).relu())
    assert encoder.out_features == 7


def test_states_are_the_encoders_one_after_the_other():
    space = spaces.Tuple([box(2), box(3), box(4)])
    parts = {"0": LSTM(Same(2), 6, 2), "1": MLP((3,), (5,)), "2": GRU(Same(4), 7)}
    encoder = Combined(space, parts)
    assert [tuple(part.shape) for part in encoder.initial_state(B)] == [(B, 2, 6), (B, 2, 6), (B, 1, 7)]
    observation, is_first = some(space, T, B), torch.rand(T, B) < 0.3
    state = tuple(torch.randn_like(part) for part in encoder.initial_state(B))
    features, after = encoder(observation, state, is_first)
    of_lstm, of_gru = (
        parts["0"](observation["0"], state[:2], is_first),
        parts["2"](observation["2"], state[2:], is_first),
    )
    assert torch.equal(features[..., :6], of_lstm[0])
    assert torch.equal(features[..., 11:], of_gru[0])
    assert all(map(torch.equal, after, (*of_lstm[1], *of_gru[1])))


def test_blocks_are_by_depth_from_the_input_on():
    space = spaces.Dict({"a": box(2), "b": box(3)})
    config = CombinedConfig(encoders={"a": MLPConfig(hidden=(4, 5, 6)), "b": MLPConfig(hidden=(7,))}, hidden=8)
    assert config.build(space).blocks() == [
        ["encoders.0.layers.0", "encoders.0.layers.1", "encoders.1.layers.0", "encoders.1.layers.1"],
        ["encoders.0.layers.2", "encoders.0.layers.3"],
        ["encoders.0.layers.4", "encoders.0.layers.5"],
        ["joint"],
    ]


def test_one_encoder_that_reads_the_future_is_enough_for_none_to_act():
    space = spaces.Dict({"a": box(2), "b": box(3)})
    encoder = CombinedConfig(encoders={"b": LSTMConfig(bidirectional=True)}).build(space)
    assert not encoder.is_causal
    with pytest.raises(ValueError, match="reads the future"):
        encoder.step(some(space, B), (), torch.zeros(B, dtype=torch.bool))


@pytest.mark.parametrize(
    ("fields", "space", "message"),
    [
        (
            {"encoders": {"imgae": {"kind": "mlp"}}},
            spaces.Dict({"image": box(2), "goal": box(3)}),
            r"encoder\.encoders\.imgae: the observation has no entry 'imgae'; did you mean image\? \(it has goal",
        ),
        (
            {"encoders": {"2": {"kind": "mlp"}}},
            spaces.Tuple([box(2), box(3)]),
            r"encoder\.encoders\.2: the observation has no entry '2'.* \(it has 0, 1\)",
        ),
        (
            {"encoders": {"goal": {"kind": "conv"}}},
            spaces.Dict({"goal": box(3)}),
            r"observation 'goal': encoder\.kind=conv can't take Box",
        ),
        ({}, box(3), r"encoder\.kind=combined can't take Box\(.*\): it takes a Dict or a Tuple"),
        (
            {},
            spaces.Dict({"a": box(3), "s": spaces.Sequence(box(2))}),
            r"observation space Sequence\(.* is not supported",
        ),
    ],
)
def test_what_does_not_fit_the_space_is_one_line(fields, space, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        CombinedConfig(**fields).build(space)
    assert "\n" not in str(caught.value)


def test_an_encoder_too_few_or_too_many_is_refused():
    with pytest.raises(ValueError, match=r"^encoders are for a, the observation has a, b$"):
        Combined(spaces.Dict({"a": box(2), "b": box(3)}), {"a": Same(2)})
