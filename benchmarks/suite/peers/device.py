"""What a device can do, and what of it our runs use: kernel times, memory traffic and arithmetic."""

import functools
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from ..clock import Clock, Metrics
from ..settings import DQN, Limits, Preset
from . import ours

KINDS = (  # of kernels, by their names; the first that fits
    ("fused by the compiler", r"triton"),
    ("optimizer", r"adam|multi_tensor|foreach"),
    ("convolutions", r"conv|cudnn|wgrad|dgrad|im2col"),
    ("matrix products", r"gemm|gemv|cutlass|cublas|xmma|addmm|aten::b?mm|aten::linear"),
    ("random numbers", r"philox|random|distribution|bernoulli"),
    ("indexing", r"index|gather|scatter|take"),
    ("copies", r"memcpy|memset|copy|clone|cat"),
    ("reductions", r"reduce|sum|mean|norm|max"),
)
OTHERS = "elementwise and others"


def kind_of(kernel: str) -> str:
    """Of a kernel, or on a CPU of an operation."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, kernel, re.I)), OTHERS)


def limits(settings: Limits, clock: Clock, seed: int) -> Metrics:
    """The best of ten, each."""
    import torch

    source = torch.zeros(settings.copied, dtype=torch.uint8, device=settings.device)
    target = torch.empty_like(source)
    left, right = (torch.randn(settings.side, settings.side, device=settings.device) for _ in range(2))
    product = torch.empty_like(left)

    def fastest(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(10):
            _wait(settings.device)
            begun = time.perf_counter()
            work()
            _wait(settings.device)
            seconds.append(time.perf_counter() - begun)
        return min(seconds)

    return {
        "copy_gigabytes_per_second": 2 * settings.copied / fastest(lambda: target.copy_(source)) / 1e9,
        "product_teraflops": 2 * settings.side**3 / fastest(lambda: torch.matmul(left, right, out=product)) / 1e12,
    }


def profile(settings: DQN | Preset, clock: Clock, seed: int) -> Metrics:
    """Shares of kernel time, how busy the device is, and what a run moves and computes in the time that passes."""
    import torch

    from graftwork.training.progress import Progress

    steps = settings.steps
    assert steps is not None
    on_gpu = settings.device == "cuda"
    activities = [torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU]
    profiler = torch.profiler.profile(activities=activities)
    marks: list[tuple[float, int]] = []  # (seconds, step) at each stage's beginning
    stages = (0.4, 0.7, 0.8)  # of all steps: measured as it is, then with the profiler, then over
    update = Progress.update

    @functools.wraps(update)
    def watched(shown: Any, step: int, *others: Any) -> None:
        if len(marks) < len(stages) and step >= stages[len(marks)] * steps:
            _wait(settings.device)
            if len(marks) == 2:
                profiler.stop()
            marks.append((time.perf_counter(), step))
            if len(marks) == 2:
                profiler.start()
        update(shown, step, *others)

    Progress.update = watched
    run, _ = ours.trained(settings, clock, seed)
    if len(marks) < len(stages):
        raise RuntimeError(f"too few iterations to look at: {len(marks)} of {len(stages)} marks")
    (first, first_step), (second, second_step), (third, _) = marks
    steps_per_second = (second_step - first_step) / (second - first)
    kernels = _kernels(profiler, on_gpu)
    total = sum(kernels.values())
    shares = {f"share: {kind}": seconds / total for kind, seconds in kernels.most_common()}
    moved, computed = cost_of_step(settings, run.agent)
    return {
        "steps_per_second": steps_per_second,
        "busy": total / (third - second),
        "gigabytes_per_second": moved * steps_per_second / 1e9,
        "teraflops": computed * steps_per_second / 1e12,
        **shares,
    }


def cost_of_step(settings: DQN | Preset, agent: Any) -> tuple[float, float]:
    """Bytes that an environment step has to move at the least, with its share of learning, and operations it takes.

    Bytes: an update reads the weights twice and the optimizer's state, and writes both and gradients (10 numbers a
    parameter); each layer's output is written and read, and to learn so is its gradient; observations are written once
    and read whenever they are learnt from or acted on.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network, space = agent.network, agent.spec.observation_space
    parameters = sum(parameter.numel() for parameter in network.parameters())
    observation_bytes = space.dtype.itemsize * int(torch.tensor(space.shape).prod())
    device = next(network.parameters()).device
    outputs: list[int] = []

    def note(module: Any, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            outputs.append(output.numel())

    leaves = [module for module in network.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(note) for module in leaves]
    observation = torch.from_numpy(space.sample()).to(device)[None, None]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(observation, network.initial_state(1), None)
    for hook in hooks:
        hook.remove()
    forward, activations = counter.get_total_flops(), sum(outputs)
    updates, steps = float(agent.num_updates), float(agent.step)
    if isinstance(settings, DQN):
        samples, passes = updates * settings.batch, 4  # forward, twice as much backward, and the target's
    else:
        samples, passes = steps * getattr(agent.config, "epochs", 1), 3
    learning = updates * 40 * parameters + samples * (observation_bytes + 16 * activations)
    acting = steps * (2 * observation_bytes + 8 * activations + 4 * parameters / settings.num_envs)
    return (learning + acting) / steps, (samples * passes + steps) * forward / steps


def _kernels(profiler: Any, on_gpu: bool) -> Counter[str]:
    """Seconds of kernels, or on a CPU of operations themselves, by kind."""
    found: Counter[str] = Counter()
    for event in profiler.key_averages():
        if on_gpu:
            # What encloses kernels is listed among them, under names with a hash.
            if "CUDA" in str(event.device_type) and "#" not in event.key:
                found[kind_of(event.key)] += event.self_device_time_total / 1e6
        elif event.key.startswith("aten::"):
            found[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    return found


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
