"""Where a replay keeps what it stores, and whether there is room for it."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Storage: TypeAlias = Literal["device", "pinned", "mapped"]
"""On the device; in the host's memory, pinned if the device is a GPU; or in a file that is mapped into memory."""


@dataclass(frozen=True)
class Memory:
    """A kind of memory to take tensors from."""

    storage: Storage
    device: torch.device  # that computes with what is stored
    directory: Path | None = None  # of mapped files; None for the system's temporary one

    @property
    def home(self) -> torch.device:
        """The device of its tensors."""
        return self.device if self.storage == "device" else torch.device("cpu")

    @property
    def is_far(self) -> bool:
        """Tensors are not on the device that computes with them."""
        return self.storage != "device" and self.device.type != "cpu"

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """ValueError, naming the directory, if a mapped file cannot be made there."""
        if self.storage == "mapped":
            return self._mapped(shape, dtype)
        pin = self.storage == "pinned" and self.device.type == "cuda"
        return torch.zeros(shape, dtype=dtype, device=self.home, pin_memory=pin)

    def _mapped(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = max(prod(shape) * dtype.itemsize, 1)
        try:
            file, name = tempfile.mkstemp(prefix="graftwork-replay-", dir=self._folder)
            try:
                # Reserved at once: a disk that is full only later would kill the process at some write.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file, 0, size)
                whole = torch.from_file(name, shared=True, size=size, dtype=torch.uint8)
            finally:
                os.close(file)
                # The mapping keeps the file; without a name it is gone with the process, however that ends.
                with suppress(OSError):
                    os.unlink(name)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"replay: no file of {byte_text(size)} can be mapped in {self._folder}: {reason}"
            ) from error
        return whole[: prod(shape) * dtype.itemsize].view(dtype).view(shape)

    @property
    def _folder(self) -> Path:
        return Path(tempfile.gettempdir()) if self.directory is None else self.directory

    def check_folder(self, size: int) -> None:
        """ValueError unless mapped files can be made where they are to lie; else a run would say so after it began."""
        if self.storage == "mapped" and not (self._folder.is_dir() and os.access(self._folder, os.W_OK | os.X_OK)):
            raise ValueError(
                f"replay: no file of {byte_text(size)} can be mapped in {self._folder}: agent.replay_directory must be "
                "a directory that is there and can be written to"
            )

    def room(self) -> tuple[str, int, str]:
        """What it is called, the bytes that there are of it, and how to say so."""
        if self.storage == "mapped":
            folder = self._folder
            while not folder.exists() and folder != folder.parent:
                folder = folder.parent
            return f"in {self._folder}", shutil.disk_usage(folder).free, "its disk has {} free"
        if self.home.type == "cuda":
            held = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            free = torch.cuda.mem_get_info(self.device)[0]
            return f"on {self.device}", free + held, "it has {} free"
        return "of memory", host_memory(), "this machine has {}"


def check_room(capacity: int, needs: Iterable[tuple[Memory, int]]) -> None:
    """ValueError if some memory has not got the bytes that are needed of it in all."""
    sizes: dict[Memory, int] = {}
    for memory, size in needs:
        sizes[memory] = sizes.get(memory, 0) + size
    total: dict[str, int] = {}
    for memory, size in sizes.items():
        memory.check_folder(size)
        name, there, text = memory.room()
        total[name] = total.get(name, 0) + size
        if total[name] > there:
            raise ValueError(
                f"agent.replay_capacity={capacity} needs {byte_text(total[name])} {name}, "
                + text.format(byte_text(there))
            )


def host_memory() -> int:
    """Bytes of memory that this process may have: the machine's, or what its control group is limited to."""
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _LIMITS:
        with suppress(OSError, ValueError):  # there is none, or it says "max"
            limit = min(limit, int(path.read_text()))
    return limit


def byte_text(size: int) -> str:
    """Such as 7.1 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
