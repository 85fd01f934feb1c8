import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from graftwork.tasks.augment import AugmentConfig, augment

N, C, H, W = 300, 3, 5, 7
SHAPES = {"lone": (N, H, W), "first": (N, C, H, W), "last": (N, H, W, C)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(layout: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """No two pixels of an image are alike, and none is zero."""
    pixels = torch.arange(1, H * W + 1).view(H, W)
    if layout == "lone":
        return pixels.expand(N, H, W).to(dtype)
    channels = torch.stack([pixels + 40 * channel for channel in range(C)], 0 if layout == "first" else -1)
    return channels.expand(SHAPES[layout]).to(dtype)


def moved(image: Tensor, down: int, right: int, edge: bool) -> Tensor:
    """One image [H, W], pixel by pixel."""
    out = torch.zeros_like(image)
    for y in range(H):
        for x in range(W):
            row, column = y - down, x - right
            if edge:
                row, column = min(max(row, 0), H - 1), min(max(column, 0), W - 1)
            if 0 <= row < H and 0 <= column < W:
                out[y, x] = image[row, column]
    return out


def one_channel(batch: Tensor, layout: str, channel: int) -> Tensor:
    """[N, H, W]."""
    if layout == "lone":
        return batch
    return batch[:, channel] if layout == "first" else batch[..., channel]


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("edge", [True, False])
def test_each_image_is_moved_by_an_offset_of_its_own_and_all_offsets_occur(layout, dtype, edge):
    config = AugmentConfig(shift=2) if edge else AugmentConfig(crop=2)
    given = images(layout, dtype)
    out = augment(given, config, seeded())
    assert (out.shape, out.dtype) == (given.shape, dtype)
    offsets = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    found = []
    for channel in range(1 if layout == "lone" else C):
        before, after = (one_channel(batch, layout, channel) for batch in (given, out))
        candidates = torch.stack([moved(before[0], *offset, edge) for offset in offsets])
        matches = (after.unsqueeze(1) == candidates).flatten(2).all(-1)  # [N, 25]
        assert matches.any(1).all()
        found.append(matches.int().argmax(1))
    assert all(torch.equal(channel, found[0]) for channel in found), "channels move together"
    # 300 draws of 25 offsets: 12 of each, with a deviation of 3.4.
    counts = found[0].bincount(minlength=25)
    assert counts.min() >= 2
    assert counts.max() <= 26


@pytest.mark.parametrize("layout", SHAPES)
def test_about_half_are_flipped_left_to_right_and_the_others_left_alone(layout):
    given = images(layout)
    out = augment(given, AugmentConfig(flip=True), seeded())
    mirrored = given.flip(-2 if layout == "last" else -1)
    is_same, is_mirrored = ((out == other).flatten(1).all(1) for other in (given, mirrored))
    assert (is_same ^ is_mirrored).all()
    assert 110 < is_mirrored.sum() < 190  # 150, with a deviation of 8.7


@pytest.mark.parametrize("shape", [(N, 4, 4, 2), (N, 2, 4, 4), (N, 3, 3, 3)])
def test_channels_are_found_as_encoders_of_images_find_them(shape):
    given = torch.rand(shape, generator=seeded())
    out = augment(given, AugmentConfig(flip=True), seeded(1))
    axis = -1 if shape[1] < shape[-1] else -2  # the last are channels if equal
    assert ((out == given.flip(axis)).flatten(1).all(1) | (out == given).flatten(1).all(1)).all()
    told = augment(given, AugmentConfig(flip=True, channels="first"), seeded(1))
    assert ((told == given.flip(-1)).flatten(1).all(1) | (told == given).flatten(1).all(1)).all()


def test_same_generator_gives_the_same_and_the_next_draw_another():
    config = AugmentConfig(shift=2, flip=True, crop=1)
    generators = seeded(), seeded()
    first = [augment(images("first"), config, generator) for generator in generators]
    second = [augment(images("first"), config, generator) for generator in generators]
    assert torch.equal(*first)
    assert torch.equal(*second)
    assert not torch.equal(first[0], second[0])


def test_nothing_asked_for_draws_nothing_and_changes_nothing():
    generator, given = seeded(), images("lone")
    assert augment(given, AugmentConfig(), generator) is given
    assert torch.equal(generator.get_state(), seeded().get_state())
    assert not AugmentConfig().is_on


def test_what_is_given_stays_as_it_was():
    given = images("lone").clone()
    augment(given, AugmentConfig(shift=1, flip=True, crop=1), seeded())
    assert torch.equal(given, images("lone"))


@pytest.mark.parametrize(
    ("config", "space", "message"),
    [
        (AugmentConfig(flip=True), spaces.Box(0, 1, (4,)), r"takes images \[H, W\], .* got the shape \[4\]"),
        (AugmentConfig(flip=True), spaces.Box(0, 1, (2, 3, 4, 5)), r"got the shape \[2, 3, 4, 5\]"),
        (AugmentConfig(shift=1), spaces.Discrete(4), r"takes images, got Discrete\(4\)"),
        (AugmentConfig(shift=1), spaces.MultiDiscrete(np.full((4, 4), 2)), "takes images, got MultiDiscrete"),
        (AugmentConfig(shift=5), spaces.Box(0, 1, (H, W)), r"shift=5: must be less than height and width, 5 x 7"),
        (AugmentConfig(crop=7), spaces.Box(0, 1, (9, 7, 3)), r"crop=7: must be less than height and width, 9 x 7"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(config, space, message):
    with pytest.raises(ValueError, match=rf"^data\.augment.*{message}") as error:
        config.check(space)
    assert "\n" not in str(error.value)
    AugmentConfig().check(space)


def test_sequences_of_images_and_other_batches_are_refused():
    with pytest.raises(ValueError, match=r"^data\.augment: takes images, got sequences; leave shift"):
        AugmentConfig(flip=True).check(spaces.Box(0, 1, (H, W)), is_sequence=True)
    with pytest.raises(ValueError, match=r"got the shape \[4\]"):
        augment(torch.zeros(N, 4), AugmentConfig(flip=True), seeded())
