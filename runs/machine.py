"""What the bits of a run depend on beside its config."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import gymnasium
import numpy as np
import torch

from ..configs.config import Config
from .config import AnyRunConfig, Device, RunConfig, Threads

_PACKAGES = {  # by how an environment's id begins, what its episodes are computed by
    "ALE/": ("ale-py", "opencv-python-headless"),
    "MinAtar/": ("minatar",),
    "LunarLander": ("box2d",),
}


class Machine(Config):
    versions: dict[str, str]
    processor: str
    capability: str  # the widest vector instructions that torch takes on it
    gpu: str | None  # its name, if the device is one
    device: Device
    threads: Threads

    def changes(self, now: "Machine") -> dict[str, tuple[str, str]]:
        """What is not as it was, by name: before and after."""
        before, after = self._named(), now._named()
        pairs = {name: (before.get(name, "missing"), after.get(name, "missing")) for name in before | after}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def _named(self) -> dict[str, str]:
        return {**self.versions, **{name: str(value or "none") for name, value in self if name != "versions"}}


def machine_of(config: AnyRunConfig, device: torch.device, threads: int) -> Machine:
    """This one, for such a run."""
    versions = {
        "python": platform.python_version(),
        "graftwork": _version("graftwork"),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "gymnasium": gymnasium.__version__,
    }
    library, number = platform.libc_ver()
    if library:  # whose sines and exponentials an environment may take
        versions[library] = number
    for name in _packages(config):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue  # an environment of the user's own under such an id
    return Machine(
        versions=versions,
        processor=processor(),
        capability=torch.backends.cpu.get_cpu_capability(),
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        device=str(device),
        threads=threads,
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from its source
        return "not installed"


def processor() -> str:
    """The model of this machine's CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine() or "unknown"


def _packages(config: AnyRunConfig) -> list[str]:
    """Distributions that make the run's environment, or the one that a task's transitions are of."""
    if isinstance(config, RunConfig):
        names = [config.env.id]
    else:
        data = [config.data, *(head.data for head in config.task.heads.values() if head.data is not None)]
        names = [each.name for each in data]
    ids = tuple(name.rpartition(":")[2] for name in names)  # after the module that registers it
    return [name for start, names in _PACKAGES.items() if any(i.startswith(start) for i in ids) for name in names]
