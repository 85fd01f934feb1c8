"""Checkpoints: after a save returns, its state can be read back bit for bit or is known to be damaged.

    step_000000050000/        a whole checkpoint; the name appears in one rename, after every byte is on the disk
        state.safetensors     the tensors, keyed by their slash-joined path
        meta.json             format version, step, the caller's meta, the state with marks where tensors sat, and of
                              each history its first and last row, and the segments it is made of
        MANIFEST              size and SHA-256 of both, of every segment, and of itself
    step_000000050000.1/      an earlier one of the same step, set aside by a later save
    segments/SHA256.safetensors    so many rows of a history, written once and named by every checkpoint that has them
    .tmp_50000_1234/          half-written or half-deleted by process 1234; never read

The same state, step and meta give the same bytes, whatever the process, the clock or the order of keys.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..engine.history import History
from ..engine.stateful import StateDict
from .durable import MANIFEST, Entry, find_problem, make_directory, seal, sync_directory, write_file
from .lock import is_alive
from .segments import SEGMENT_BYTES, SEGMENTS, MappedHistory, fingerprint, sweep, write_history
from .state_tree import Leaf, join, plain_bytes, split, tensor_bytes

FORMAT = 2

Scalar: TypeAlias = str | int | float | bool | None

_STATE, _META = "state.safetensors", "meta.json"
_NAME = re.compile(r"step_([0-9]{12})(?:\.([0-9]+))?")
_TEMPORARY = re.compile(r"\.tmp_[0-9]+_([0-9]+)")


class CheckpointError(ValueError):
    """A checkpoint cannot be written, or cannot be trusted; one line that names it and the reason."""


class NoCheckpointError(CheckpointError):
    """There is none at all, good or bad."""


@dataclass(frozen=True)
class Loaded:
    path: Path
    step: int
    state: StateDict  # tensors on the CPU that own their memory; dicts in sorted order; histories read their files
    meta: dict[str, Scalar]
    problems: tuple[str, ...] = ()  # a line for each newer checkpoint that was passed over
    _histories: tuple[MappedHistory, ...] = field(default=(), repr=False)

    def release(self) -> None:
        """Let go of the histories' files, once what was loaded into has copied their rows: they can be read no more.

        Until then they can be, even if a save has deleted them, but they take room on the disk.
        """
        for history in self._histories:
            history.release()


def save(
    directory: Path,
    step: int,
    state: StateDict,
    keep: int,
    meta: Mapping[str, Scalar],
    *,
    segment_bytes: int = SEGMENT_BYTES,
) -> Path:
    """The checkpoint's path, once it is on the disk; every failure on the way leaves the earlier ones loadable.

    Of the checkpoints up to `step`, those beyond the newest `keep` are deleted, except one that does not verify. Later
    ones are left alone: a run that fell back this far will pass them again. An older one of this very step is replaced,
    or set aside if it does not verify. Segments that no checkpoint names any more, good or bad, are deleted last.

    Of a History, a segment that is there in the right size and that the history knows is neither read nor written
    (see write_history); one that was damaged without a change of its size goes unnoticed until it is loaded.

    Tensors that share storage come back apart. One writer per directory at a time (RunLock).

    Raises ValueError that names the place in the state of a value that cannot be saved (see state_tree.split), before
    anything is written; CheckpointError that names the path if the disk is full or fails.
    """
    if not 0 <= step < 10**12:
        raise CheckpointError(f"step must be in [0, 10**12), got {step}")
    if keep < 1:
        raise CheckpointError(f"checkpoint.keep must be at least 1, got {keep}")
    tree, leaves = split(state)
    plain_meta, meta_leaves = split(dict(meta), "meta")
    if meta_leaves:
        raise CheckpointError(f"meta holds a tensor at {min(meta_leaves)!r}; put it into the state")
    histories, tensors = _parted(leaves)

    directory = Path(directory)
    path, temporary = directory / f"step_{step:012d}", directory / f".tmp_{step}_{os.getpid()}"
    with _explained(f"checkpoint {path} could not be saved"):
        try:
            make_directory(directory)
            _clear_stale(directory)
            os.mkdir(temporary)
            entries: set[Entry] = set()
            records: dict[str, object] = {}
            for place, history in histories.items():
                written = write_history(history, directory / SEGMENTS, temporary, segment_bytes)
                tensors |= {f"{place}/{name}": rows for name, rows in written.left_over.items()}
                records[place] = written.record
                entries.update(written.entries)
            content = {"format": FORMAT, "step": step, "meta": plain_meta, "tree": tree, "histories": records}
            entries.add(write_file(temporary / _STATE, tensor_bytes(tensors)))
            entries.add(write_file(temporary / _META, [plain_bytes(content)]))
            seal(temporary, entries)
            _put(temporary, path)
            sync_directory(directory)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    with _explained(f"checkpoint {path} is saved, but older ones could not be deleted"):
        others = [other for other in _list(directory) if _age(other) < _age(path)]
        aside = [other for other in others if _age(other)[0] == step]
        for other in aside + others[len(aside) + keep - 1 :]:
            if _is_good(other):
                _discard(other)
        if (directory / SEGMENTS).is_dir():
            # Every directory that may be a checkpoint, the damaged too; each of two files names all the segments, so
            # damage to one of them loses none.
            owners = [name for name in os.listdir(directory) if _NAME.fullmatch(name) or _TEMPORARY.fullmatch(name)]
            sweep(directory / SEGMENTS, [directory / name / file for name in owners for file in (MANIFEST, _META)])
    return path


def load(path: Path, *, verify_histories: bool = True) -> Loaded:
    """The checkpoint at `path`, every byte of it verified; raises CheckpointError.

    A History in the state reads its rows from the files when it is asked for them, so the data are never held twice.
    It can be read until `Loaded.release`, whatever later saves of this or another process delete.

    verify_histories: False only looks whether the segments are there and have their size, and reads none of them; each
    is then verified before its first row is given, and a damaged one is a ValueError that names the file.
    """
    path = Path(path)
    content = _verified(path, read_segments=verify_histories)
    try:
        # Cloned: safetensors may hand out views of the mapped file, and a live tensor must not depend on it.
        with safe_open(path / _STATE, framework="pt") as file:
            tensors: dict[str, Tensor] = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        mapped: dict[str, MappedHistory] = {}
        for place, record in content["histories"].items():
            names = [name for name in tensors if name.rpartition("/")[0] == place]
            left_over = {name.rpartition("/")[2]: tensors.pop(name) for name in names}
            mapped[place] = MappedHistory(record, left_over, path / ".." / SEGMENTS, verified=verify_histories)
        leaves: dict[str, Leaf] = {**tensors, **{place: each.history for place, each in mapped.items()}}
        state = join(content["tree"], leaves)
        if leaves or not isinstance(state, dict):
            raise ValueError(f"{_META} has no place for {sorted(leaves)[:1] or 'a state'}")
        return Loaded(path, content["step"], state, content["meta"], _histories=tuple(mapped.values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        # Its hashes are right, so this was written like that: by another program, or by a bug.
        raise CheckpointError(f"checkpoint {path}: is not one of graftwork's ({error!r})") from error


def load_newest(directory: Path, *, verify_histories: bool = True) -> Loaded:
    """The newest checkpoint that verifies, and what is wrong with each newer one; deletes nothing.

    verify_histories: as of `load`.

    Raises NoCheckpointError if there is none, CheckpointError that names each if none is good.
    """
    directory = Path(directory)
    while True:
        with _explained(f"checkpoints in {directory} cannot be listed"):
            paths = _list(directory)
        problems: list[str] = []
        if not paths:
            raise NoCheckpointError(f"no checkpoint in {directory}")
        for path in paths:
            try:
                return replace(load(path, verify_histories=verify_histories), problems=tuple(problems))
            except CheckpointError as error:
                if not os.path.lexists(path):
                    break  # A running process has just pruned it, so there is a newer one: look again.
                problems.append(str(error))
        else:
            raise CheckpointError(f"no good checkpoint in {directory}: {'; '.join(problems)}")


def digest(state: StateDict) -> str:
    """SHA-256 of everything in `state` but the order of its keys; equal after a save and a load.

    Reads all the rows of a History, a segment at a time.
    """
    tree, leaves = split(state)
    histories, tensors = _parted(leaves)
    hasher = hashlib.sha256(plain_bytes(tree))
    for chunk in tensor_bytes(tensors):
        hasher.update(chunk)
    for place, history in sorted(histories.items()):
        hasher.update(plain_bytes([place, fingerprint(history)]))
    return hasher.hexdigest()


def _parted(leaves: Mapping[str, Leaf]) -> tuple[dict[str, History], dict[str, Tensor]]:
    histories = {place: leaf for place, leaf in leaves.items() if isinstance(leaf, History)}
    return histories, {place: leaf for place, leaf in leaves.items() if not isinstance(leaf, History)}


def _verified(path: Path, *, read_segments: bool) -> StateDict:
    """What meta.json says, once every file is as the manifest says and the format is ours; raises CheckpointError."""
    if problem := find_problem(path, {_STATE, _META}, read_shared=read_segments):
        raise CheckpointError(f"checkpoint {path}: {problem}")
    try:
        content: object = json.loads((path / _META).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {path}: {_META} cannot be read ({error!r})") from error
    version = content.get("format") if isinstance(content, dict) else None
    if not isinstance(content, dict) or version != FORMAT:
        raise CheckpointError(
            f"checkpoint {path}: {_META} has format version {version!r}, this graftwork reads {FORMAT}"
        )
    return content


def _is_good(path: Path) -> bool:
    """It verifies, but for the contents of its segments: reading those would cost more than the save."""
    try:
        _verified(path, read_segments=False)
    except CheckpointError:
        return False
    return True


def _put(temporary: Path, path: Path) -> None:
    """Rename into place; an older one of that name is set aside first, so that it stays loadable until then."""
    if os.path.lexists(path):
        if _is_good(path) and (path / MANIFEST).read_bytes() == (temporary / MANIFEST).read_bytes():
            shutil.rmtree(temporary, ignore_errors=True)
            return
        number = 1
        while os.path.lexists(aside := path.with_name(f"{path.name}.{number}")):
            number += 1
        os.rename(path, aside)
    os.rename(temporary, path)


def _discard(path: Path) -> None:
    """Delete, under a name that is never read: one half deleted must not be taken for a damaged one."""
    trash = path.with_name(f".tmp_{_age(path)[0]}_{os.getpid()}")
    os.rename(path, trash)
    shutil.rmtree(trash)


def _list(directory: Path) -> list[Path]:
    """Newest first."""
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((directory / name for name in names if _NAME.fullmatch(name)), key=_age, reverse=True)


def _age(path: Path) -> tuple[int, float]:
    """Grows with time: of one step, the one in place is the newest, then the one last set aside."""
    found = _NAME.fullmatch(path.name)
    assert found is not None, path
    return int(found[1]), float(found[2] or "inf")


def _clear_stale(directory: Path) -> None:
    """Free what dead processes, and failed saves of this one, left behind."""
    for name in os.listdir(directory):
        found = _TEMPORARY.fullmatch(name)
        if found and (int(found[1]) == os.getpid() or not is_alive(int(found[1]))):
            shutil.rmtree(directory / name, ignore_errors=True)


@contextmanager
def _explained(failure: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{failure}: {error.strerror or error}") from error
