import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from graftwork.engine import Adam, GradientStep, Metrics, NonFiniteError, StateDict, recorded

Batch = tuple[Tensor, Tensor]  # inputs [N, 3], targets [N, 2]
Step = GradientStep[nn.Module, Batch]


def loss(network: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
    inputs, target = batch
    error = network(inputs) - target
    return (error**2).mean(), {"error": error.detach().abs().mean()}


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    built = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)
    generator = torch.Generator().manual_seed(1)
    for parameter in built.parameters():
        nn.init.normal_(parameter, generator=generator)
    return built


def batches(count: int, dtype: torch.dtype = torch.float64, seed: int = 2) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(7, 3, generator=generator, dtype=dtype),
            (4.0 * k + 1) * torch.randn(7, 2, generator=generator, dtype=dtype),
        )
        for k in range(count)
    ]


def poisoned(batch: Batch, value: float = math.nan) -> Batch:
    inputs, target = batch[0].clone(), batch[1]
    inputs[4, 1] = value
    return inputs, target


def adam_step(built: nn.Module, max_norm: float | None = None, learning_rate: float = 0.01) -> Step:
    optimizer = torch.optim.Adam(built.parameters(), lr=learning_rate, fused=True)
    return GradientStep(loss, built, optimizer, max_norm)


def values(built: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in built.named_parameters()}


def copied(state: StateDict) -> StateDict:
    return {name: {key: value.clone() for key, value in entries.items()} for name, entries in state.items()}


def assert_same(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


class Reference:
    """Adam (Kingma & Ba 2015, algorithm 1) after a clip of the gradient's global norm, written out."""

    def __init__(self, built: nn.Module, max_norm: float | None) -> None:
        self.built, self.max_norm, self.time = built, max_norm, 0
        self.first = [torch.zeros_like(p) for p in built.parameters()]
        self.second = [torch.zeros_like(p) for p in built.parameters()]

    @torch.no_grad()
    def update(self, batch: Batch, learning_rate: float) -> tuple[float, float]:
        """Loss and norm of the gradient before the clip."""
        parameters = list(self.built.parameters())
        with torch.enable_grad():
            value = loss(self.built, batch)[0]
        gradients = torch.autograd.grad(value, parameters)
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
        factor = 1.0 if self.max_norm is None else min(1.0, self.max_norm / norm)
        self.time += 1
        for parameter, gradient, first, second in zip(parameters, gradients, self.first, self.second, strict=True):
            clipped = factor * gradient
            first.mul_(0.9).add_(clipped, alpha=0.1)
            second.mul_(0.999).add_(clipped**2, alpha=0.001)
            m, v = first / (1 - 0.9**self.time), second / (1 - 0.999**self.time)
            parameter -= learning_rate * m / (v.sqrt() + 1e-8)
        return value.item(), norm


class TestUpdate:
    # The clip's factor is a float32 in a fused optimizer, so with a clip there are 7 digits.
    @pytest.mark.parametrize(("max_norm", "rtol"), [(None, 1e-12), (0.7, 1e-6), (6.0, 1e-6), (1e9, 1e-12)])
    def test_equals_adam_written_out_step_by_step(self, max_norm: float | None, rtol: float) -> None:
        ours, theirs = network(), network()
        step, reference = adam_step(ours, max_norm), Reference(theirs, max_norm)
        norms = []
        for k, batch in enumerate(batches(12)):
            learning_rate = 0.01 / (k + 1)
            metrics = step([batch], learning_rate)
            value, norm = reference.update(batch, learning_rate)
            norms.append(norm)
            assert metrics["loss"].item() == pytest.approx(value, rel=10 * rtol)
            assert metrics["gradient_norm"].item() == pytest.approx(norm, rel=10 * rtol)
            for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(mine, other, rtol=rtol, atol=rtol)
        assert min(norms) < 6.0 < max(norms)  # so a limit of 6 clips some

    def test_equals_torchs_own_clip_and_adam_in_float32(self) -> None:
        ours, theirs = network(torch.float32), network(torch.float32)
        step, optimizer = adam_step(ours, 0.7), torch.optim.Adam(theirs.parameters(), lr=0.01)
        for batch in batches(12, torch.float32):
            step([batch])
            optimizer.zero_grad()
            loss(theirs, batch)[0].backward()
            nn.utils.clip_grad_norm_(theirs.parameters(), 0.7)
            optimizer.step()
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)

    def test_a_call_is_one_update_a_batch_and_its_metrics_are_their_means(self) -> None:
        one, other = network(), network()
        together, apart = adam_step(one, 0.7), adam_step(other, 0.7)
        metrics = together(iter(batches(5)))
        each = [apart([batch]) for batch in batches(5)]
        assert_same(values(one), values(other))
        assert metrics.keys() == {"loss", "error", "gradient_norm"}
        for name, value in metrics.items():
            torch.testing.assert_close(value, torch.stack([metrics[name] for metrics in each]).mean())
            assert not value.requires_grad

    def test_learning_rate_is_applied_and_kept_when_none_is_given(self) -> None:
        built = network()
        step = adam_step(built, learning_rate=0.5)
        batch = batches(1)[0]
        for learning_rate, expected in ((0.25, 0.25), (None, 0.25), (0.0, 0.0)):
            before = values(built)
            state = copied(step.state_dict())
            step([batch], learning_rate)
            moved = max(float((values(built)[name] - before[name]).abs().max()) for name in before)
            # Adam moves a parameter by its learning rate, or a little less, while gradients hardly change.
            assert moved == pytest.approx(expected, rel=0.3)
            assert step.state_dict().keys() >= state.keys()

    def test_no_gradient_is_left_behind(self) -> None:
        built = network()
        adam_step(built, 0.7)(batches(2))
        assert all(parameter.grad is None for parameter in built.parameters())

    def test_only_parameters_of_the_optimizer_move(self) -> None:
        built = network()
        last = built.get_submodule("2")
        step: Step = GradientStep(loss, built, torch.optim.Adam(last.parameters(), fused=True))
        before = values(built)
        step(batches(2))
        moved = {name for name, value in values(built).items() if not value.equal(before[name])}
        assert moved == step.state_dict().keys() == {"2.weight", "2.bias"}

    @pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
    def test_a_fused_optimizer_and_a_plain_one_come_to_the_same(
        self, make: Callable[..., torch.optim.Optimizer]
    ) -> None:
        ours, theirs = network(), network()
        for built, fused in ((ours, True), (theirs, False)):
            step: Step = GradientStep(loss, built, make(built.parameters(), lr=0.1, fused=fused), 0.7)
            with pytest.raises(NonFiniteError):
                step([*batches(3), poisoned(batches(1)[0]), *batches(2)])
        torch.testing.assert_close(values(ours), values(theirs), rtol=1e-6, atol=1e-6)

    def test_tensors_that_are_not_the_networks_are_refused(self) -> None:
        built, other = network(), network()
        optimizer = torch.optim.Adam([*built.parameters(), *other[2].parameters()], fused=True)
        with pytest.raises(ValueError, match=r"^the optimizer has 2 tensors that the network has not$"):
            GradientStep(loss, built, optimizer)

    def test_a_parameter_that_the_loss_does_not_depend_on_is_named(self) -> None:
        built = network()
        built.add_module("3", nn.Linear(2, 2))

        def without_last(network: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
            return loss(network[:3], batch)

        step: Step = GradientStep(without_last, built, torch.optim.Adam(built.parameters(), fused=True))
        with pytest.raises(
            ValueError, match=r"^3\.weight has no part in the loss; freeze it: requires_grad_\(False\)$"
        ):
            step(batches(1))
        built[3].requires_grad_(False)
        step(batches(1))

    def test_synchronises_once_however_many_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Reads(TorchDispatchMode):
            count = 0

            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                self.count += func is torch.ops.aten._local_scalar_dense.default
                return func(*args, **(kwargs or {}))

        def refuse(tensor: Tensor) -> float:
            raise AssertionError("a tensor's value was read")

        step = adam_step(network(), 0.7)
        step(batches(1))
        for name in ("item", "tolist", "cpu", "numpy", "__float__", "__int__"):
            monkeypatch.setattr(Tensor, name, refuse)
        for count in (1, 5):
            with Reads() as reads:
                step(batches(count))
            assert reads.count == 1


class TestNonFinite:
    @pytest.mark.parametrize("max_norm", [None, 0.7])
    @pytest.mark.parametrize(
        # Behind a tanh an infinite input is a finite loss.
        ("value", "named"),
        [(math.nan, "loss is nan"), (math.inf, "gradient of 0.weight is not finite")],
    )
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_weights_and_optimizer_stay_as_they_were(
        self, max_norm: float | None, value: float, named: str, dtype: torch.dtype
    ) -> None:
        built = network(dtype)
        step = adam_step(built, max_norm)
        first, second = batches(2, dtype)
        step([first])
        weights, state = values(built), copied(step.state_dict())
        with pytest.raises(NonFiniteError, match=f"^{named}; the last finite weights are kept$"):
            step([poisoned(second, value)])
        assert_same(values(built), weights)
        assert_same(step.state_dict(), state)

    def test_finite_batches_go_on_as_if_nothing_had_been(self) -> None:
        ours, theirs = network(), network()
        step, clean = adam_step(ours, 0.7), adam_step(theirs, 0.7)
        first, second, third, fourth = batches(4)
        with pytest.raises(NonFiniteError):
            step([first, poisoned(second), third])
        step([fourth])
        clean([first, third, fourth])
        assert_same(values(ours), values(theirs))
        assert_same(step.state_dict(), clean.state_dict())

    def test_the_very_first_batch_leaves_an_optimizer_that_has_seen_nothing(self) -> None:
        ours, theirs = network(), network()
        step, clean = adam_step(ours), adam_step(theirs)
        with pytest.raises(NonFiniteError):
            step([poisoned(batches(1)[0])])
        step(batches(2))
        clean(batches(2))
        assert_same(values(ours), values(theirs))

    def test_a_gradient_that_is_not_finite_is_named(self) -> None:
        def rooted(network: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
            # The root of nothing has no slope: a finite loss, an infinite gradient of one bias.
            bias = network.get_parameter("2.bias")
            return loss(network, batch)[0] + (bias - bias.detach()).sum().sqrt(), {}

        built = network()
        before = values(built)
        step: Step = GradientStep(rooted, built, torch.optim.Adam(built.parameters(), fused=True), 0.7)
        with pytest.raises(
            NonFiniteError, match=r"^gradient of 2\.bias is not finite; the last finite weights are kept$"
        ):
            step(batches(1))
        assert_same(values(built), before)

    def test_a_loss_that_is_not_finite_updates_nothing_though_its_gradient_is(self) -> None:
        def shifted(network: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
            value, metrics = loss(network, batch)
            return value + math.inf, metrics

        built = network()
        before = values(built)
        step: Step = GradientStep(shifted, built, torch.optim.Adam(built.parameters(), fused=True))
        with pytest.raises(NonFiniteError, match=r"^loss is inf; the last finite weights are kept$"):
            step(batches(1))
        assert_same(values(built), before)

    def test_is_a_value_error(self) -> None:
        assert issubclass(NonFiniteError, ValueError)


class TestState:
    def test_a_restored_optimizer_continues_identically(self) -> None:
        one, other = network(), network()
        step = adam_step(one, 0.7)
        step(batches(3))
        restored = adam_step(other, 0.7)
        restored(batches(2, seed=9))  # which the state must replace
        other.load_state_dict(one.state_dict())
        restored.load_state_dict(step.state_dict())
        for batch in batches(4, seed=5):
            assert_same(step([batch]), restored([batch]))
            assert_same(values(one), values(other))
        assert_same(step.state_dict(), restored.state_dict())

    def test_a_state_from_before_the_first_update_is_restored_too(self) -> None:
        one, other = network(), network()
        step, restored = adam_step(one), adam_step(other)
        restored(batches(2, seed=9))
        other.load_state_dict(one.state_dict())
        restored.load_state_dict(step.state_dict())
        step(batches(2))
        restored(batches(2))
        assert_same(values(one), values(other))

    def test_is_by_parameter_name(self) -> None:
        step = adam_step(network())
        assert step.state_dict() == {}
        step(batches(1))
        state = step.state_dict()
        assert state.keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
        assert all(entries.keys() == {"step", "exp_avg", "exp_avg_sq"} for entries in state.values())

    def test_names_that_are_not_the_optimizers_are_refused(self) -> None:
        step = adam_step(network())
        step(batches(1))
        state = step.state_dict()
        state["3.bias"] = state.pop("2.bias")
        with pytest.raises(ValueError, match=r"^state of optimizer: missing nothing, unexpected \['3\.bias'\]$"):
            step.load_state_dict(state)

    def test_a_state_of_another_shape_is_refused(self) -> None:
        step = adam_step(network())
        step(batches(1))
        state = step.state_dict()
        state["2.bias"] = {**state["2.bias"], "exp_avg": torch.zeros(3)}
        with pytest.raises(ValueError, match=r"^state of optimizer: exp_avg of 2\.bias is \[3\], this one \[2\]$"):
            step.load_state_dict(state)

    def test_parameters_that_it_does_not_name_begin_anew(self) -> None:
        one, other = network(), network()
        step, restored = adam_step(one), adam_step(other)
        restored(batches(2, seed=9))
        restored.load_state_dict({})
        other.load_state_dict(one.state_dict())
        for each in (step, restored):
            each(batches(3))
        assert_same(values(one), values(other))


class TestFreezing:
    def test_what_is_frozen_has_no_gradient_and_no_state_and_stands_still(self) -> None:
        built = network()
        built[0].requires_grad_(False)
        before = values(built)
        step = adam_step(built, 0.7)
        step(batches(3))
        moved = {name for name, value in values(built).items() if not value.equal(before[name])}
        assert moved == step.state_dict().keys() == {"2.weight", "2.bias"}

    def test_the_norm_is_of_what_is_trained(self) -> None:
        built = network()
        step = adam_step(built)
        whole = step(batches(1), 0.0)["gradient_norm"]
        built[0].requires_grad_(False)
        part = step(batches(1), 0.0)["gradient_norm"]
        gradients = torch.autograd.grad(loss(built, batches(1)[0])[0], list(built[2].parameters()))
        torch.testing.assert_close(part, torch.cat([gradient.flatten() for gradient in gradients]).norm())
        assert part < whole

    @pytest.mark.parametrize("soon", [False, True])
    def test_a_change_is_noticed_recorded_or_not(self, soon: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recorded, "_EAGER_FIRST", 3 if soon else math.inf)
        built = network()
        step = adam_step(built, 0.7)
        for frozen in ({"0"}, set[str](), {"2"}, {"0"}):
            for name, module in built.named_children():
                module.requires_grad_(name not in frozen)
            before = values(built)
            step(batches(6))
            moved = {name[0] for name, value in values(built).items() if not value.equal(before[name])}
            assert moved == {"0", "2"} - frozen

    @pytest.mark.parametrize("soon", [False, True])
    def test_others_are_asked_as_they_are_now_and_stand_still(
        self, soon: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recorded, "_EAGER_FIRST", 3 if soon else math.inf)
        asks, is_told, other = network(), network(), network()

        def asking(built: nn.Module, batch: Batch, other: nn.Module) -> tuple[Tensor, Metrics]:
            with torch.no_grad():
                target = other(batch[1])
            return loss(built, (batch[0], target))

        optimizer = torch.optim.Adam(asks.parameters(), lr=0.01, fused=True)
        step, reference = GradientStep(asking, asks, optimizer, 0.7, others=[other]), adam_step(is_told, 0.7)
        other[2] = nn.Linear(5, 2, dtype=torch.float64)
        for inputs, _ in batches(12):
            with torch.no_grad():
                other[0].weight.mul_(0.9)
                target = other(inputs)
            before = values(other)
            step([(inputs, inputs)])
            reference([(inputs, target)])
            assert_same(values(other), before)
            assert_same(values(asks), values(is_told))
        assert all(parameter.grad is None for parameter in other.parameters())
        assert bool(step._gradients._flat._recordings) == soon

    def test_nothing_to_train_is_said(self) -> None:
        built = network().requires_grad_(False)
        with pytest.raises(ValueError, match=r"^nothing to update: every parameter is frozen \(requires_grad=False\)$"):
            adam_step(built)(batches(1))


def noisy(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """With norm statistics and dropout."""
    layers = (nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.4), nn.Linear(5, 2))
    built = nn.Sequential(*layers).to(dtype)
    generator = torch.Generator().manual_seed(1)
    for parameter in built.parameters():
        nn.init.normal_(parameter, generator=generator)
    return built


def noisy_step(built: nn.Module, seed: int = 7) -> Step:
    return GradientStep(loss, built, Adam(built.parameters()), 0.7, torch.Generator().manual_seed(seed))


def everything(built: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in built.state_dict().items()}


class TestStream:
    def test_dropout_goes_on_from_the_state(self) -> None:
        one, other = noisy(), noisy()
        step, restored = noisy_step(one), noisy_step(other, seed=8)
        step(batches(3, torch.float32))
        restored(batches(2, torch.float32))
        other.load_state_dict(one.state_dict())
        restored.load_state_dict(step.state_dict())
        for batch in batches(3, torch.float32, seed=5):
            assert_same(step([batch]), restored([batch]))
            torch.rand(3)  # what others draw makes no difference
        assert_same(everything(one), everything(other))

    def test_the_global_stream_is_left_alone(self) -> None:
        step = noisy_step(noisy())
        before = torch.get_rng_state()
        step.examine()
        step(batches(3, torch.float32))
        assert torch.equal(before, torch.get_rng_state())

    def test_a_network_that_draws_nothing_has_none(self) -> None:
        built = network()
        generator = torch.Generator().manual_seed(7)
        before = generator.get_state()
        step: Step = GradientStep(loss, built, Adam(built.parameters()), None, generator)
        step(batches(2))
        assert step.state_dict().keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
        assert torch.equal(generator.get_state(), before)

    def test_its_state_bears_a_name_that_no_parameter_can_have(self) -> None:
        built = noisy()
        state = noisy_step(built).state_dict()
        assert state.keys() == {".stream"}
        with pytest.raises(KeyError):
            built.register_parameter(".stream", nn.Parameter(torch.zeros(1)))
        with pytest.raises(ValueError, match=r"^state of optimizer: missing \['\.stream'\], unexpected nothing$"):
            noisy_step(built).load_state_dict({})
        with pytest.raises(ValueError, match=r"^state of optimizer: missing nothing, unexpected \['\.stream'\]$"):
            adam_step(network()).load_state_dict(state)

    def test_a_generator_of_another_device_is_refused(self) -> None:
        built = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).to("meta")
        with pytest.raises(ValueError, match=r"^the generator is on cpu, but the network on meta$"):
            GradientStep(loss, built, torch.optim.SGD(built.parameters()), None, torch.Generator())

    def test_160_updates_recorded_equal_eager_ones_bit_for_bit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ours, theirs = noisy(), noisy()
        given = batches(160, torch.float32)
        step = noisy_step(ours)
        for batch in given:
            step([batch], 1e-3)
        recordings = list(step._gradients._flat._recordings.values())
        assert len(recordings) == 1
        assert recordings[0] is not None
        monkeypatch.setattr(recorded, "_EAGER_FIRST", math.inf)
        eager = noisy_step(theirs)
        for batch in given:
            eager([batch], 1e-3)
        assert_same(everything(ours), everything(theirs))
        assert everything(ours)["1.num_batches_tracked"] == 160
        assert_same(step.state_dict(), eager.state_dict())


class TestBuffers:
    @pytest.mark.parametrize("soon", [False, True])
    def test_statistics_are_put_back_after_a_batch_that_is_not_finite(
        self, soon: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recorded, "_EAGER_FIRST", 3 if soon else math.inf)
        built = noisy()
        step = noisy_step(built)
        step(batches(6, torch.float32))
        before = everything(built)
        with pytest.raises(NonFiniteError, match=r"^loss is nan"):
            step([poisoned(batches(1, torch.float32)[0])])
        assert_same(everything(built), before)
        step(batches(2, torch.float32))
        assert all(value.isfinite().all() for value in everything(built).values())
        assert everything(built)["1.num_batches_tracked"] == 8

    def test_statistics_stay_after_batches_that_are_finite(self) -> None:
        built = noisy()
        before = everything(built)
        noisy_step(built)(batches(2, torch.float32))
        assert not everything(built)["1.running_mean"].equal(before["1.running_mean"])


class TestExamine:
    @pytest.mark.parametrize("soon", [False, True])
    def test_changes_nothing_but_the_metrics_of_one_call(self, soon: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recorded, "_EAGER_FIRST", 3 if soon else math.inf)
        ours, theirs = noisy(), noisy()
        step, plain = noisy_step(ours), noisy_step(theirs)
        for count, examined in ((2, False), (3, True), (4, False), (1, True), (2, False)):
            if examined:
                step.examine()
            given = batches(count, torch.float32)
            metrics, expected = step(given), plain(given)
            names = metrics.keys() - expected.keys()
            assert bool(names) is examined
            assert_same({name: metrics[name] for name in expected}, expected)
            assert_same(everything(ours), everything(theirs))
            assert_same(step.state_dict(), plain.state_dict())

    def test_measures_the_first_batch_before_its_update(self) -> None:
        built = network()
        step = adam_step(built, 0.7)
        first, second = batches(2)
        hidden = built[:2](first[0]).detach()
        gradients = torch.autograd.grad(loss(built, first)[0], list(built.parameters()))
        step.examine()
        metrics = step([first, second])
        assert all(value.shape == () for value in metrics.values())
        torch.testing.assert_close(metrics["activation_mean/1"].double(), hidden.mean(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(metrics["gradient_norm/2.bias"], gradients[3].norm())

    def test_the_measured_random_numbers_are_the_updates(self) -> None:
        built = nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.4), nn.Linear(50, 2))
        shares: list[Tensor] = []

        def sharing(network: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
            dropped = built[1](built[0](batch[0])) if network is built else network[:2](batch[0])
            shares.append((dropped == 0).float().mean())
            return network[2](dropped).mean(), {}

        generator = torch.Generator().manual_seed(7)
        step: Step = GradientStep(sharing, built, Adam(built.parameters()), None, generator)
        step.examine()
        metrics = step(batches(1, torch.float32))
        assert len(shares) == 2
        assert shares[0] == shares[1] == metrics["activation_zeros/1"]


class TestGroups:
    """Parameters [G, ...] of networks that learn apart."""

    @staticmethod
    def stacked(members: list[nn.Module]) -> nn.Module:
        built = nn.Module()
        for name, _ in members[0].named_parameters():
            entries = torch.stack([member.get_parameter(name).detach() for member in members])
            built.register_parameter(name.replace(".", "_"), nn.Parameter(entries))
        return built

    @staticmethod
    def sum_of_losses(built: nn.Module, batch: list[Batch]) -> tuple[Tensor, Metrics]:
        w1, b1, w2, b2 = built.parameters()
        total, errors = torch.zeros((), dtype=w1.dtype), []
        for g, (inputs, target) in enumerate(batch):
            error = torch.tanh(inputs @ w1[g].T + b1[g]) @ w2[g].T + b2[g] - target
            total = total + (error**2).mean()
            errors.append(error.detach().abs().mean())
        return total, {"error": torch.stack(errors)}

    def members(self, max_norm: float | None) -> tuple[list[Step], Step]:
        alone = [network() for _ in range(3)]
        for g, member in enumerate(alone):
            with torch.no_grad():
                member[0].weight.mul_(g + 1.0)
        built = self.stacked(alone)
        together = GradientStep(self.sum_of_losses, built, Adam(built.parameters()), max_norm, groups=3)
        return [GradientStep(loss, member, Adam(member.parameters()), max_norm) for member in alone], together

    @pytest.mark.parametrize("max_norm", [None, 0.5])
    def test_each_is_clipped_by_its_own_norm_and_updated_as_if_alone(self, max_norm: float | None) -> None:
        alone, together = self.members(max_norm)
        parts = [batches(4, seed=g) for g in range(3)]
        told = [step(part, 0.01) for step, part in zip(alone, parts, strict=True)]
        found = together([[part[k] for part in parts] for k in range(4)], 0.01)
        for index, stacked in enumerate(together._network.parameters()):
            for g, step in enumerate(alone):
                own = list(step._network.parameters())[index]
                torch.testing.assert_close(stacked[g], own, rtol=1e-7, atol=1e-9)
        for name, value in found.items():  # each metric is the mean of theirs
            torch.testing.assert_close(value, torch.stack([each[name] for each in told]).mean(), rtol=1e-6, atol=1e-9)
        assert len({f"{each['gradient_norm']:.3f}" for each in told}) == 3

    @pytest.mark.parametrize("group", [0, 2])
    def test_one_that_is_not_finite_is_named_and_nothing_changes(self, group: int) -> None:
        _, together = self.members(1.0)
        before = values(together._network)
        batch = [batches(1, seed=g)[0] for g in range(3)]
        batch[group] = poisoned(batch[group])
        with pytest.raises(NonFiniteError, match="loss is nan; the last finite weights are kept") as error:
            together([batch], 0.01)
        assert error.value.group == group
        assert_same(values(together._network), before)
