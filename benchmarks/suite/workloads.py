"""What is run, of whom, and for how long. Nothing heavy is imported here: every measured process reads it first."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from .clock import Goal
from .hyperparameters import A2C_DEFAULTS, BREAKOUT, CLEAN, NATIVE_DQN, REINFORCE, ZOO, on_policy
from .settings import Device, Preset, Settings

OURS = "graftwork"
SB3, TIANSHOU, TORCHRL, CLEANRL, JAX = "Stable-Baselines3", "Tianshou", "TorchRL", "CleanRL", "JAX"
LOOP = "a plain PyTorch loop"


class Scale(Enum):
    """How much of everything."""

    FULL = "full"
    QUICK = "quick"
    TINY = "tiny"  # for the tests, which only want to see it work


@dataclass(frozen=True)
class Side:
    run: str  # module:function of this package, given the settings, a Clock and a seed
    settings: Settings
    needs: tuple[str, ...] = ()  # modules, beside graftwork; without them it is left out
    series: str = ""  # whose curve the point belongs to, in a workload that is a curve
    x: int | None = None

    @property
    def is_ours(self) -> bool:
        return self.run.startswith((".peers.ours:", ".peers.device:"))


@dataclass(frozen=True)
class Workload:
    title: str
    sides: dict[str, Side]  # in the order of their turns
    repeats: int  # that count
    goal: Goal = "rate"
    note: str = ""  # what a reader should know
    absent: tuple[tuple[str, str], ...] = ()  # sides that there cannot be, and why
    axis: str = ""  # of a curve: what x is
    base: str = OURS  # that the others are compared with
    warms_up: bool = True  # a first run of each side is not counted
    timeout: float = 1_800.0  # seconds for one run


WITHOUT_NUMBA = "Tianshou's first updates are not counted, as Numba compiles in them, in every process anew."
WITHOUT_CLEANRL = (
    CLEANRL,
    "on PyPI 0.5 to 1.2 ask for a Python below 3.11, and 0.4.8 for gym's Monitor wrapper, which no gym has any more",
)


def dqn_zoo(scale: Scale) -> Workload:
    settings = replace(ZOO, steps=_of(scale, 50_000, 12_000, 1_600))
    own = Preset("dqn/cartpole", ZOO.env, skip=1_000, overrides=(*_first(scale, 49_500, 12_000, 1_600),))
    return Workload(
        "DQN, CartPole-v1, rl-baselines3-zoo's settings",
        {
            OURS: Side(".peers.ours:dqn", settings),
            "graftwork, dqn/cartpole": Side(".peers.ours:preset", own),
            SB3: Side(".peers.sb3:dqn", settings, ("stable_baselines3",)),
            TIANSHOU: Side(".peers.tianshou:dqn", settings, ("tianshou",)),
            TORCHRL: Side(".peers.torchrl:dqn", settings, ("torchrl",)),
        },
        _of(scale, 5, 1, 1),
        note="The second side is our own preset: the same network, replay and updates a step, in bursts of 32. "
        f"{WITHOUT_NUMBA}",
    )


def dqn_zoo_solved(scale: Scale) -> Workload:
    # Exploration takes the same 8,000 steps however long a run may go on.
    steps = _of(scale, 200_000, 30_000, 2_500)
    settings = replace(ZOO, steps=steps, epsilon_fraction=8_000 / steps)
    return Workload(
        "DQN, CartPole-v1, rl-baselines3-zoo's settings, until solved",
        {
            OURS: Side(".peers.ours:dqn", settings),
            SB3: Side(".peers.sb3:dqn", settings, ("stable_baselines3",)),
        },
        _of(scale, 5, 1, 1),
        goal="solved",
        note=f"Ends with the third evaluation in a row of 475 and more, or after {steps:,} steps; one every 2,500.",
    )


def dqn_cleanrl(scale: Scale) -> Workload:
    settings = replace(CLEAN, steps=_of(scale, 100_000, 30_000, 1_600), starts=_of(scale, 10_000, 10_000, 200))
    return Workload(
        "DQN, CartPole-v1, CleanRL's settings",
        {
            OURS: Side(".peers.ours:dqn", settings),
            SB3: Side(".peers.sb3:dqn", settings, ("stable_baselines3",)),
            LOOP: Side(".peers.torch_loop:dqn", settings, ("stable_baselines3",)),
        },
        _of(scale, 5, 1, 1),
        note=f"{LOOP[0].upper()}{LOOP[1:]} stands where CleanRL's would: one environment, autograd, torch's Adam, "
        "SB3's replay, no logging. SB3 has Huber's loss only.",
        absent=(WITHOUT_CLEANRL,),
    )


def reinforce(scale: Scale) -> Workload:
    settings = replace(REINFORCE, steps=_of(scale, 200_000, 40_000, 400))
    return Workload(
        "REINFORCE, CartPole-v1, 8 environments",
        {
            OURS: Side(".peers.ours:reinforce", settings),
            TIANSHOU: Side(".peers.tianshou:reinforce", settings, ("tianshou",)),
            "Stable-Baselines3, A2C": _a2c(scale),
        },
        _of(scale, 5, 1, 1),
        note="One update from an episode of each environment, returns standardised. SB3 has no REINFORCE: its A2C at "
        f"its defaults shows what stepping and learning without a replay take there. {WITHOUT_NUMBA}",
    )


def native_dqn(scale: Scale) -> Workload:
    settings = replace(NATIVE_DQN, steps=_of(scale, 500_000, 150_000, 1_600), starts=_of(scale, 10_000, 10_000, 200))
    return Workload(
        "DQN, native CartPole, 10 environments, CleanRL's network and batch",
        {
            OURS: Side(".peers.ours:dqn", settings),
            "graftwork, bursts of 8": Side(".peers.ours:dqn", replace(settings, train_rows=8, updates=8)),
            JAX: Side(".peers.jax_dqn:dqn", settings, ("jax", "gymnax", "optax")),
        },
        _of(scale, 5, 2, 1),
        note="JAX is one jitted scan over gymnax's CartPole, replay, acting and update, on one core; its first step "
        "comes once that is compiled. An update for each row of ten environments; in bursts: eight for eight rows.",
    )


def native_onpolicy(scale: Scale) -> Workload:
    sides = {
        f"{name}, {num_envs:,} environments": Side(".peers.ours:preset", settings)
        for name, kind in (("PQN", "pqn"), ("REINFORCE", "reinforce"))
        for num_envs in (64, 1_024)
        for settings in [on_policy(kind, "graftwork/CartPole-v1", num_envs, _of(scale, 2_000_000, 300_000, 600))]
    }
    return Workload(
        "PQN and REINFORCE, native CartPole",
        {**sides, "Stable-Baselines3, A2C": _a2c(scale)},
        _of(scale, 5, 1, 1),
        note="Two layers of 64 on every side, those of PQN with layer norm; PQN goes through each rollout twice, in "
        "minibatches of 512 or 1,024 steps. SB3's A2C at its defaults is the yardstick of the core: where it made "
        "9,800 steps/s, 100,000 are wanted, 10.2 times as many.",
        base="Stable-Baselines3, A2C",
    )


def breakout(scale: Scale) -> Workload:
    settings = replace(BREAKOUT, steps=_of(scale, 60_000, 15_000, 1_600), starts=_of(scale, 5_000, 5_000, 200))
    return Workload(
        "DQN with a convolution, MinAtar Breakout, 8 environments",
        {
            OURS: Side(".peers.ours:dqn", settings, ("minatar",)),
            SB3: Side(".peers.sb3:dqn", settings, ("minatar", "stable_baselines3")),
        },
        _of(scale, 5, 1, 1),
        note="The package's game through the same adapter on both sides; a 3x3 convolution of 16 channels, 128 units.",
    )


def start(scale: Scale) -> Workload:
    return Workload(
        "From the start of the process to the first environment step",
        {
            OURS: Side(".peers.ours:command_line", Preset("dqn/cartpole", ZOO.env)),
            SB3: Side(".peers.sb3:dqn", ZOO, ("stable_baselines3",)),
        },
        _of(scale, 9, 5, 1),
        goal="start",
        note="`graftwork train dqn/cartpole` against SB3's DQN of the same network and replay.",
    )


def seeds(scale: Scale) -> Workload:
    settings = replace(NATIVE_DQN, steps=_of(scale, 200_000, 60_000, 1_600), starts=_of(scale, 10_000, 10_000, 200))
    return Workload(
        "32 seeds at once, DQN on native CartPole",
        {
            "32 at once": Side(".peers.ours:dqn", replace(settings, seeds=32)),
            "one after another": Side(".peers.ours:dqn", settings),
        },
        _of(scale, 5, 1, 1),
        note="Environment steps of all seeds a second; one after another: those of one, without what lies between.",
        base="one after another",
    )


def replay(scale: Scale) -> Workload:
    """Has its own process and rounds: see replay.py."""
    return Workload("Batches drawn from the replay", {}, _of(scale, 11, 3, 1))


def _a2c(scale: Scale) -> Side:
    settings = replace(A2C_DEFAULTS, steps=_of(scale, 100_000, 30_000, 400))
    return Side(".peers.sb3:a2c", settings, ("stable_baselines3",))


def _of(scale: Scale, full: int, quick: int, tiny: int) -> int:
    return {Scale.FULL: full, Scale.QUICK: quick, Scale.TINY: tiny}[scale]


def _first(scale: Scale, full: int, quick: int, tiny: int) -> list[str]:
    """The preset as it stands, or less of it."""
    return [] if scale is Scale.FULL else [f"steps={_of(scale, full, quick, tiny)}"]


WORKLOADS: dict[str, Callable[[Scale], Workload]] = {
    "dqn-zoo": dqn_zoo,
    "dqn-zoo-solved": dqn_zoo_solved,
    "dqn-cleanrl": dqn_cleanrl,
    "reinforce": reinforce,
    "native-dqn": native_dqn,
    "native-onpolicy": native_onpolicy,
    "breakout": breakout,
    "start": start,
    "seeds": seeds,
    "replay": replay,
}


def workload(name: str, scale: Scale, device: Device) -> Workload:
    """By its name, of whichever kind. device: of those that are about devices."""
    if name in WORKLOADS:
        return WORKLOADS[name](scale)
    from .sweeps import SWEEPS

    return SWEEPS[name](scale, device)
