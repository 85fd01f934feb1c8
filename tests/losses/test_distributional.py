from math import exp, floor, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graftwork.losses import categorical_cross_entropy, categorical_projection, midpoints, quantile_huber
from graftwork.losses.distributional import _dense, _scattered

T, B, K, M, N = 3, 5, 7, 4, 11
SUPPORT = torch.linspace(-2, 3, N, dtype=torch.float64)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def probabilities(seed: int, *shape: int) -> Tensor:
    return normal(seed, *shape).softmax(-1)


def projected(atoms: list[float], probability: list[float], support: list[float]) -> list[float]:
    """Bellemare et al. 2017, algorithm 1, atom by atom."""
    low, high, count = support[0], support[-1], len(support)
    step, result = (high - low) / (count - 1), [0.0] * count
    for z, p in zip(atoms, probability, strict=True):
        place = (min(max(z, low), high) - low) / step
        below = min(floor(place), count - 1)
        if below == count - 1:
            result[below] += p
        else:
            result[below] += p * (below + 1 - place)
            result[below + 1] += p * (place - below)
    return result


def test_projection_by_hand():
    support = torch.tensor([0.0, 2.0, 4.0])
    atoms = torch.tensor([[1.0, 2.0, 3.5], [-7.0, 4.0, 9.0]])
    probability = torch.tensor([[0.4, 0.5, 0.1], [0.2, 0.3, 0.5]])
    # 1.0 is half way between 0 and 2; 3.5 is a quarter of the way from 4 to 2. -7 and 9 become 0 and 4.
    expected = torch.tensor([[0.2, 0.2 + 0.5 + 0.025, 0.075], [0.2, 0.0, 0.8]])
    torch.testing.assert_close(categorical_projection(atoms, probability, support), expected)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    atoms=st.integers(1, 60),
    count=st.integers(2, 60),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_projection_equals_a_python_loop(seed: int, atoms: int, count: int, scale: float):
    low = float(normal(seed, 1)) * scale
    support = torch.linspace(low, low + 1 + scale, count, dtype=torch.float64)
    z, p = low + scale * normal(seed + 1, B, atoms), probabilities(seed + 2, B, atoms)
    actual = categorical_projection(z, p, support)
    expected = [projected(*each, support.tolist()) for each in zip(z.tolist(), p.tolist(), strict=True)]
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), atoms=st.integers(1, 60), count=st.integers(2, 60))
def test_both_ways_to_project_come_to_the_same(seed: int, atoms: int, count: int):
    place = torch.rand(T, B, atoms, generator=generator(seed), dtype=torch.float64) * (count - 1)
    place[0, 0, 0], place[1, 0, 0], place[2, 0, 0] = 0, count - 1, count // 2
    probability = probabilities(seed, T, B, atoms)
    torch.testing.assert_close(_dense(place, probability, count), _scattered(place, probability, count))


@settings(max_examples=60, deadline=None)
@given(low=st.floats(-100, 100, width=32), width=st.floats(0.015625, 100, width=32), count=st.integers(2, 60))
def test_no_support_makes_a_negative_mass_at_its_ends(low: float, width: float, count: int):
    support = torch.linspace(low, low + width, count)
    result = categorical_projection(torch.tensor([[-1e6, 1e6]]), torch.tensor([[0.25, 0.75]]), support)
    assert result[0].tolist() == [0.25, *[0.0] * (count - 2), 0.75]


@pytest.mark.parametrize("way", [_dense, _scattered])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mass_is_conserved_and_never_negative(way, dtype):
    place = (torch.rand(B, 300, generator=generator(0), dtype=dtype) * 50).contiguous()
    result = way(place, probabilities(1, B, 300).to(dtype), 51)
    assert (result >= 0).all()
    torch.testing.assert_close(result.sum(-1), torch.ones(B, dtype=dtype))


def test_projection_onto_its_own_support_changes_nothing():
    p = probabilities(0, T, B, N)
    torch.testing.assert_close(categorical_projection(SUPPORT.expand(T, B, N), p, SUPPORT), p)


def test_the_mean_stays_where_no_atom_is_clipped():
    z, p = SUPPORT[0] + 5 * torch.rand(T, B, K, generator=generator(0), dtype=torch.float64), probabilities(1, T, B, K)
    result = categorical_projection(z, p, SUPPORT)
    torch.testing.assert_close((result * SUPPORT).sum(-1), (z * p).sum(-1))


def test_a_mixture_is_projected_as_the_mixture_of_projections():
    z, p = normal(0, B, 2, K), probabilities(1, B, 2, K)
    mixture = categorical_projection(z.flatten(1), 0.5 * p.flatten(1), SUPPORT)
    torch.testing.assert_close(mixture, categorical_projection(z, p, SUPPORT).mean(1))


@pytest.mark.parametrize("way", [_dense, _scattered])
def test_the_last_atom_of_51_keeps_its_mass_in_float32(way):
    support = torch.linspace(-10, 10, 51)
    place = (support - support[0]) / (support[-1] - support[0]) * 50
    assert place[-1] == 50
    assert way(place, torch.eye(51)[-1], 51).tolist() == [0.0] * 50 + [1.0]


def test_infinite_atoms_are_the_ends_and_nan_stays_nan():
    atoms = torch.tensor([[-torch.inf, torch.inf], [torch.nan, 0.0]], dtype=torch.float64)
    result = categorical_projection(atoms, torch.full((2, 2), 0.5, dtype=torch.float64), SUPPORT)
    assert result[0, 0] == result[0, -1] == 0.5
    assert result[1].isnan().any()
    assert result[0].isfinite().all()


def test_shapes_that_would_broadcast_are_refused_by_projection():
    with pytest.raises(ValueError, match=r"^probability must have shape \[5, 7\], got \[1, 7\]$"):
        categorical_projection(normal(0, B, K), normal(0, 1, K), SUPPORT)
    for support in (SUPPORT[:1], SUPPORT.expand(B, N)):
        with pytest.raises(ValueError, match=r"^support must have shape \[N\] with at least 2 atoms, got \["):
            categorical_projection(normal(0, B, K), normal(0, B, K), support)


def test_cross_entropy_by_hand():
    # softmax is (1/4, 3/4): -(0.4 log 0.25 + 0.6 log 0.75)
    logits, target = torch.tensor([[0.0, log(3)]]), torch.tensor([[0.4, 0.6]])
    expected = torch.tensor([-(0.4 * log(0.25) + 0.6 * log(0.75))])
    torch.testing.assert_close(categorical_cross_entropy(logits, target), expected)


def test_cross_entropy_equals_a_python_loop_and_is_stable():
    logits, target = 300 * normal(0, T, B, N), probabilities(1, T, B, N)
    actual = categorical_cross_entropy(logits, target)
    assert actual.shape == (T, B)
    for t in range(T):
        for b in range(B):
            row, most = logits[t, b].tolist(), logits[t, b].max().item()
            total = most + log(sum(exp(x - most) for x in row))
            expected = sum(p * (total - x) for p, x in zip(target[t, b].tolist(), row, strict=True))
            assert actual[t, b].item() == pytest.approx(expected, rel=1e-12)


def test_gradient_of_cross_entropy_is_softmax_less_target_and_stops_there():
    logits, target = normal(0, B, N).requires_grad_(), probabilities(1, B, N).requires_grad_()
    of_logits, of_target = torch.autograd.grad(
        categorical_cross_entropy(logits, target).sum(), (logits, target), allow_unused=True
    )
    torch.testing.assert_close(of_logits, logits.softmax(-1) - target)
    assert of_target is None
    with pytest.raises(ValueError, match=r"^target must have shape \[5, 11\], got \[11\]$"):
        categorical_cross_entropy(logits, target[0])


def regressed(
    quantiles: list[float], fractions: list[float], target: list[float], kappa: float, weight: list[float]
) -> float:
    """Dabney et al. 2018b, eq. 3, pair by pair."""
    total = 0.0
    for theta, tau in zip(quantiles, fractions, strict=True):
        for z, w in zip(target, weight, strict=True):
            u = z - theta
            loss = abs(u) - kappa / 2 if abs(u) > kappa or kappa == 0 else u * u / 2 / kappa
            total += w * abs(tau - (1.0 if u < 0 else 0.0)) * loss
    return total


def test_quantile_huber_by_hand():
    quantiles, fractions = torch.tensor([[0.0, 1.0]]), torch.tensor([0.25, 0.75])
    target = torch.tensor([[0.5, -3.0]])
    # Of quantile 0: u = 0.5, -3: 0.25 * 0.125 and 0.75 * 2.5. Of 1: u = -0.5, -4: 0.25 * 0.125 and 0.25 * 3.5.
    expected = (0.03125 + 1.875) / 2 + (0.03125 + 0.875) / 2
    torch.testing.assert_close(quantile_huber(quantiles, fractions, target), torch.tensor([expected]))
    # Without the parabola: 0.25 * 0.5 + 0.75 * 3 and 0.25 * 0.5 + 0.25 * 4.
    expected = (0.125 + 2.25) / 2 + (0.125 + 1.0) / 2
    torch.testing.assert_close(quantile_huber(quantiles, fractions, target, 0.0), torch.tensor([expected]))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kappa=st.sampled_from([0.0, 0.3, 1.0, 2.5]), shared=st.booleans())
def test_quantile_huber_equals_a_python_loop(seed: int, kappa: float, shared: bool):
    quantiles, target = 2 * normal(seed, T, B, K), 2 * normal(seed + 1, T, B, M)
    shape = (K,) if shared else (T, B, K)
    fractions = torch.rand(shape, generator=generator(seed), dtype=torch.float64)
    weight = probabilities(seed + 2, T, B, M)
    plain, weighted = (quantile_huber(quantiles, fractions, target, kappa, each) for each in (None, weight))
    assert plain.shape == weighted.shape == (T, B)
    for t in range(T):
        for b in range(B):
            tau = (fractions if shared else fractions[t, b]).tolist()
            given_ = (quantiles[t, b].tolist(), tau, target[t, b].tolist(), kappa)
            assert plain[t, b].item() == pytest.approx(regressed(*given_, [1 / M] * M), rel=1e-12)
            assert weighted[t, b].item() == pytest.approx(regressed(*given_, weight[t, b].tolist()), rel=1e-12)


def test_descent_on_the_plain_loss_finds_the_quantiles():
    # Of 0 to 100, all equally likely, the quantiles at 1/8, 3/8, 5/8 and 7/8 are 12, 37, 63 and 88.
    target, fractions = torch.arange(101.0), midpoints(4)
    quantiles = torch.zeros(4, requires_grad=True)
    for step in range(600):
        (gradient,) = torch.autograd.grad(quantile_huber(quantiles, fractions, target, 0.0), quantiles)
        with torch.no_grad():
            quantiles -= gradient * 20 * 0.99**step
    assert quantiles.tolist() == pytest.approx([12, 37, 63, 88], abs=1)


def test_gradients_of_quantiles_are_finite_where_they_meet_the_target_and_stop_there():
    quantiles, target = torch.zeros(B, K, requires_grad=True), torch.zeros(B, M, requires_grad=True)
    fractions, weight = midpoints(K).requires_grad_(), torch.full((B, M), 1 / M, requires_grad=True)
    for kappa in (0.0, 1.0):
        loss = quantile_huber(quantiles, fractions, target, kappa, weight).sum()
        gradient, *others = torch.autograd.grad(loss, (quantiles, fractions, target, weight), allow_unused=True)
        assert gradient.isfinite().all()
        assert others == [None, None, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fractions": normal(0, B, 1)}, r"fractions must have shape \[5, 7\], got \[5, 1\]"),
        ({"fractions": normal(0, 1)}, r"fractions must have shape \[5, 7\], got \[1\]"),
        ({"target": normal(0, M)}, r"target must have shape \[5, 4\], got \[4\]"),
        ({"target": normal(0, 1, M)}, r"target must have shape \[5, 4\], got \[1, 4\]"),
        ({"weight": normal(0, M)}, r"weight must have shape \[5, 4\], got \[4\]"),
        ({"kappa": -1.0}, "kappa must be at least 0, got -1.0"),
    ],
)
def test_what_would_broadcast_is_refused_by_quantile_huber(change, message):
    right = {"quantiles": normal(0, B, K), "fractions": normal(0, K), "target": normal(0, B, M)}
    with pytest.raises(ValueError, match=f"^{message}$"):
        quantile_huber(**(right | change))


def test_midpoints_by_hand():
    assert midpoints(4).tolist() == [0.125, 0.375, 0.625, 0.875]
    assert midpoints(1, torch.device("cpu")).tolist() == [0.5]
    with pytest.raises(ValueError, match=r"^k must be at least 1, got 0$"):
        midpoints(0)


def test_no_shape_depends_on_values():
    """What engine.Recorded and torch.export ask for."""
    inputs = (normal(0, B, K), probabilities(1, B, K), SUPPORT)
    graph = torch.fx.experimental.proxy_tensor.make_fx(categorical_projection)(*inputs)
    other = (3 * normal(5, B, K), probabilities(6, B, K), SUPPORT)
    assert torch.equal(graph(*other), categorical_projection(*other))
