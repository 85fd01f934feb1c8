import numpy as np
import pytest
import torch
from gymnasium import spaces

from graftwork.networks import EmbeddingConfig, TokenEmbedding, initialise
from graftwork.spaces import to_arrays

TEXT = spaces.Text(6, charset="abc")


def counting(space: spaces.Space, **fields) -> TokenEmbedding:
    """Token number n has the vector (n, 10 n)."""
    encoder = EmbeddingConfig(size=2, **fields).build(space)
    numbers = torch.arange(encoder.embedding.num_embeddings, dtype=torch.float32)
    with torch.no_grad():
        encoder.embedding.weight.copy_(torch.stack((numbers, 10 * numbers), 1))
    return encoder


def test_a_discrete_number_gets_its_vector():
    encoder = counting(spaces.Discrete(7))
    assert encoder.encode(torch.tensor([3, 0, 6])).tolist() == [[3, 30], [0, 0], [6, 60]]
    assert encoder.out_features == 2


def test_several_tokens_are_averaged_whatever_their_shape():
    tokens = torch.tensor([[1, 2, 3, 6], [0, 0, 0, 2]])  # means 3 and 0.5
    for shape in ((4,), (2, 2)):
        encoder = counting(spaces.MultiDiscrete(np.full(shape, 7)))
        assert encoder.encode(tokens.view(2, *shape)).tolist() == [[3, 30], [0.5, 5]]


def test_padding_counts_for_nothing_and_nothing_but_padding_is_zero():
    encoder = counting(spaces.MultiDiscrete([7] * 4), padding=5)
    tokens = torch.tensor([[1, 5, 3, 5], [5, 5, 5, 5], [5, 0, 0, 6]])  # means 2, none, 2
    assert encoder.encode(tokens).tolist() == [[2, 20], [0, 0], [2, 20]]


def test_text_is_the_mean_of_its_characters_without_what_follows_its_end():
    encoder = counting(TEXT)
    assert encoder.embedding.num_embeddings == 4
    number = {"a": 1, "b": 2, "c": 3}
    order = sorted(number, key=TEXT.character_index)  # gymnasium's, which need not be the alphabet's
    for text in ("abc", "c", "aabbcc", ""):
        tokens = torch.from_numpy(to_arrays(TEXT, text)).unsqueeze(0)
        expected = sum(order.index(letter) + 1 for letter in text) / max(len(text), 1)
        torch.testing.assert_close(encoder.encode(tokens), torch.tensor([[expected, 10 * expected]]))


def test_the_vector_of_padding_never_learns():
    encoder = counting(spaces.MultiDiscrete([7] * 4), padding=5)
    encoder.encode(torch.tensor([[1, 5, 3, 5]])).sum().backward()
    assert encoder.embedding.weight.grad.tolist() == [[0.5, 0.5] if token in (1, 3) else [0, 0] for token in range(7)]
    initialise(encoder, "uniform", torch.Generator().manual_seed(0))
    assert not encoder.embedding.weight[5].any()


@pytest.mark.parametrize("token", [-1, 7])
def test_a_token_out_of_range_is_an_error(token):
    with pytest.raises(IndexError):
        counting(spaces.Discrete(7)).encode(torch.tensor([token]))


@pytest.mark.parametrize(
    ("fields", "space", "message"),
    [
        (
            {},
            spaces.Box(0, 1, (3,)),
            r"encoder\.kind=embedding can't take Box\(.*\): it takes Discrete, MultiDiscrete or",
        ),
        (
            {},
            spaces.MultiDiscrete([3, 4]),
            r"encoder\.kind=embedding can't take MultiDiscrete\(\[3 4\]\): it takes equal",
        ),
        ({"padding": 7}, spaces.MultiDiscrete([7] * 4), r"encoder\.padding=7 is none of the tokens, which are 0 to 6"),
        (
            {"padding": 1},
            spaces.Discrete(7),
            r"encoder\.padding=1 is for MultiDiscrete, not for Discrete\(7\); leave it",
        ),
        ({"padding": 0}, TEXT, r"encoder\.padding=0 is for MultiDiscrete, not for Text"),
    ],
)
def test_a_space_or_padding_that_does_not_fit_is_one_line(fields, space, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        EmbeddingConfig(**fields).build(space)
    assert "\n" not in str(caught.value)
