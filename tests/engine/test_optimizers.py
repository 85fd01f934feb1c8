import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from graftwork.engine import GradientStep, NonFiniteError
from graftwork.engine.optimizers import (
    AdagradConfig,
    AdamConfig,
    AdamWConfig,
    OptimizerConfig,
    RMSpropConfig,
    SGDConfig,
)
from graftwork.networks.freezing import Group

ANY: TypeAdapter[Any] = TypeAdapter(OptimizerConfig)
CONFIGS = [
    SGDConfig(),
    SGDConfig(momentum=0.9, weight_decay=0.1),
    SGDConfig(momentum=0.8, nesterov=True),
    AdagradConfig(epsilon=1e-3),
    RMSpropConfig(alpha=0.9, epsilon=1e-3),
    RMSpropConfig(momentum=0.5),
    AdamConfig(betas=(0.8, 0.95), epsilon=1e-3),
    AdamWConfig(weight_decay=0.2),
]


def of(config: Any) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    """torch's own, plain and one parameter after another."""
    match config:
        case SGDConfig():
            return lambda p: torch.optim.SGD(
                p, momentum=config.momentum, nesterov=config.nesterov, weight_decay=config.weight_decay, foreach=False
            )
        case AdagradConfig():
            return lambda p: torch.optim.Adagrad(p, eps=config.epsilon, foreach=False)
        case RMSpropConfig():
            return lambda p: torch.optim.RMSprop(
                p, alpha=config.alpha, eps=config.epsilon, momentum=config.momentum, foreach=False
            )
        case AdamConfig():
            return lambda p: torch.optim.Adam(p, betas=config.betas, eps=config.epsilon, foreach=False)
        case AdamWConfig():
            return lambda p: torch.optim.AdamW(p, weight_decay=config.weight_decay, foreach=False)
    raise AssertionError(config)


class Numbers(nn.Module):
    """Three parameters, which a loss pulls to the batch's numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.full((k,), float(k), dtype=torch.float64)) for k in (2, 3, 1))


def loss(network: Numbers, batch: tuple[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    together = torch.cat([network.a, network.b, network.c])
    return ((together - batch[0]) ** 2).sum(), {}


def batches(count: int) -> list[tuple[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(6, generator=generator, dtype=torch.float64),) for _ in range(count)]


def values(network: Numbers) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def grouped(config: Any, network: Numbers, rate: float = 1.0) -> torch.optim.Optimizer:
    built: torch.optim.Optimizer = config.build([Group([network.a, network.b], 1.0), Group([network.c], rate)])
    return built


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
class TestEach:
    # A fused optimizer takes the factor of a clip as float32.
    @pytest.mark.parametrize(("max_norm", "rtol"), [(None, 1e-10), (3.0, 1e-6)])
    def test_updates_as_torchs_plain_one_after_torchs_own_clip(
        self, config: Any, max_norm: float | None, rtol: float
    ) -> None:
        ours, theirs = Numbers(), Numbers()
        step: Any = GradientStep(loss, ours, grouped(config, ours), max_norm)
        reference = of(config)(list(theirs.parameters()))
        norms = []
        for k, batch in enumerate(batches(12)):
            learning_rate = 0.1 / (k + 1)
            norms.append(step([batch], learning_rate)["gradient_norm"].item())
            reference.param_groups[0]["lr"] = learning_rate
            reference.zero_grad()
            loss(theirs, batch)[0].backward()
            if max_norm is not None:
                nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
            reference.step()
            torch.testing.assert_close(values(ours), values(theirs), rtol=rtol, atol=rtol)
        assert max(norms) > 3.0

    def test_a_groups_rate_is_a_factor_of_the_learning_rate(self, config: Any) -> None:
        ours, half, whole = Numbers(), Numbers(), Numbers()
        # The gradient of each parameter depends on it alone, so each group can be compared by itself.
        for network, rate, learning_rate in ((ours, 0.5, 0.2), (half, 1.0, 0.1), (whole, 1.0, 0.2)):
            step: Any = GradientStep(loss, network, grouped(config, network, rate))
            step(batches(4), learning_rate)
        assert torch.equal(ours.a, whole.a)
        assert torch.equal(ours.c, half.c)
        assert not torch.equal(half.c, whole.c)

    @pytest.mark.parametrize("bad", [0, 2])
    def test_an_update_that_is_not_finite_might_not_have_been(self, config: Any, bad: int) -> None:
        ours, clean = Numbers(), Numbers()
        for network in (ours, clean):
            step: Any = GradientStep(loss, network, grouped(config, network), 3.0)
            given = batches(5)
            if network is ours:
                given.insert(bad, (torch.tensor([math.nan, 1, 2, 3, 4, 5]),))
                with pytest.raises(NonFiniteError, match=r"^loss is nan"):
                    step(given, 0.1)
            else:
                step(given, 0.1)
        assert all(map(torch.equal, values(ours), values(clean)))

    def test_what_is_unfrozen_later_begins_then(self, config: Any) -> None:
        ours, early, late = Numbers(), Numbers(), Numbers()
        step: Any = GradientStep(loss, ours, grouped(config, ours))
        ours.b.requires_grad_(False)
        ours.c.requires_grad_(False)
        first, second = batches(7)[:3], batches(7)[3:]
        step(first, 0.1)
        assert step.state_dict().keys() <= {"a"}
        assert torch.equal(ours.b, Numbers().b)
        ours.b.requires_grad_(True)
        step(second, 0.1)
        assert step.state_dict().keys() <= {"a", "b"}
        assert torch.equal(ours.c, Numbers().c)
        GradientStep(loss, early, grouped(config, early))(first + second, 0.1)
        GradientStep(loss, late, grouped(config, late))(second, 0.1)
        assert torch.equal(ours.a, early.a)
        assert torch.equal(ours.b, late.b)

    @pytest.mark.parametrize("at", [0, 1, 2, 3])
    def test_goes_on_from_its_state_at_any_moment_of_thawing(self, config: Any, at: int) -> None:
        """Trained are a and c, then b as well, then all but a."""
        frozen = [{"b"}, set[str](), {"a"}, {"a"}]

        def thaw(network: Numbers, stage: int) -> None:
            for name, parameter in network.named_parameters():
                parameter.requires_grad_(name not in frozen[stage])

        whole, parts, resumed = Numbers(), Numbers(), Numbers()
        step: Any = GradientStep(loss, whole, grouped(config, whole))
        for stage in range(4):
            thaw(whole, stage)
            step(batches(8)[2 * stage :][:2], 0.1)
        step = GradientStep(loss, parts, grouped(config, parts))
        for stage in range(at):
            thaw(parts, stage)
            step(batches(8)[2 * stage :][:2], 0.1)
        state = step.state_dict()
        resumed.load_state_dict(parts.state_dict())
        step = GradientStep(loss, resumed, grouped(config, resumed))
        thaw(resumed, 3)  # another set than was trained when the state was saved
        step.load_state_dict(state)
        assert step.state_dict().keys() >= state.keys()
        for stage in range(at, 4):
            thaw(resumed, stage)
            step(batches(8)[2 * stage :][:2], 0.1)
        assert all(map(torch.equal, values(whole), values(resumed)))

    def test_survives_a_round_trip(self, config: Any) -> None:
        for dumped in (config, config.model_dump(), config.model_dump(mode="json")):
            assert ANY.validate_python(dumped) == config


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "lion"},
        {},
        {"kind": "sgd", "momentum": 1.0},
        {"kind": "sgd", "weight_decay": -0.1},
        {"kind": "sgd", "betas": [0.9, 0.99]},
        {"kind": "adagrad", "epsilon": 0},
        {"kind": "rmsprop", "alpha": 1.5},
        {"kind": "adam", "betas": [0.9]},
        {"kind": "adam", "betas": [0.9, 1.0]},
        {"kind": "adamw", "weight_decay": float("nan")},
    ],
)
def test_what_is_no_optimizer_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ANY.validate_python(wrong)


def test_nesterov_needs_a_momentum() -> None:
    with pytest.raises(ValidationError, match="nesterov=true: needs a momentum above 0"):
        ANY.validate_python({"kind": "sgd", "nesterov": True})


def test_momentum_written_out() -> None:
    # d/dx (x - 1)^2 = 2 (x - 1); from 3 with rate 0.1 and momentum 0.5:
    # v = 4, x = 2.6; v = 0.5 * 4 + 3.2 = 5.2, x = 2.08
    network = nn.ParameterDict({"x": nn.Parameter(torch.tensor(3.0))})
    optimizer = SGDConfig(momentum=0.5).build([Group(list(network.parameters()), 1.0)])
    step: Any = GradientStep(lambda network, batch: ((network["x"] - batch[0]) ** 2, {}), network, optimizer)
    step([(torch.tensor(1.0),)] * 2, 0.1)
    assert network["x"].item() == pytest.approx(2.08)
    assert step.state_dict()["x"]["momentum_buffer"].item() == pytest.approx(5.2)
