"""Files that survive a crash, and a directory of them that can prove it is whole."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

MANIFEST = "MANIFEST"


class Entry(NamedTuple):
    """One file as the manifest knows it."""

    sha256: str
    size: int  # bytes
    name: str


def write_file(path: Path, chunks: Iterable[bytes | memoryview]) -> Entry:
    """A new file that holds `chunks` and is on the disk, not only in the system's cache; raises OSError."""
    hasher, size = hashlib.sha256(), 0
    with open(path, "xb") as file:
        for chunk in chunks:
            file.write(chunk)
            hasher.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return Entry(hasher.hexdigest(), size, path.name)


def sync_directory(path: Path) -> None:
    """The names in `path` are on the disk; without this a power cut can take back a rename."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a directory; NTFS journals its names.
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal(directory: Path, entries: Iterable[Entry]) -> None:
    """Write the manifest: size and SHA-256 of each file, by name, then of the manifest's own lines above."""
    write_file(directory / MANIFEST, [_manifest(sorted(entries, key=lambda entry: entry.name))])
    sync_directory(directory)


def find_problem(directory: Path, required: set[str]) -> str | None:
    """What is wrong with a sealed directory, in one line that names the file; None promises every byte is as sealed."""
    try:
        if not directory.is_dir():
            return "is missing or not a directory"
        entries = _entries(directory / MANIFEST)
        if isinstance(entries, str):
            return entries
        if unlisted := required - {entry.name for entry in entries}:
            return f"{MANIFEST} does not list {min(unlisted)}"
        return next((problem for entry in entries if (problem := _file_problem(directory, entry)) is not None), None)
    except OSError as error:
        return f"{Path(error.filename or directory).name} cannot be read: {error.strerror or error}"


def _manifest(entries: Iterable[Entry]) -> bytes:
    body = "".join(f"{entry.sha256} {entry.size} {entry.name}\n" for entry in entries).encode()
    return body + f"{hashlib.sha256(body).hexdigest()} {len(body)} {MANIFEST}\n".encode()


def _entries(path: Path) -> list[Entry] | str:
    """The files listed, or what is wrong with the manifest."""
    if not path.is_file():
        return f"{MANIFEST} is missing"
    data = path.read_bytes()
    altered = f"{MANIFEST} is truncated or altered"
    try:
        lines = [line.split(" ", 2) for line in data.decode().splitlines()[:-1]]
        entries = [Entry(sha256, int(size), name) for sha256, size, name in lines]
    except ValueError:
        return altered
    # A name with a separator would have us hash, and so read, files outside the directory.
    if _manifest(entries) != data or any({"/", os.sep} & set(entry.name) for entry in entries):
        return altered
    return entries


def _file_problem(directory: Path, entry: Entry) -> str | None:
    path = directory / entry.name
    if not path.is_file():
        return f"{entry.name} is missing"
    size = path.stat().st_size
    if size < entry.size:
        return f"{entry.name} is truncated ({size} of {entry.size} bytes)"
    if size > entry.size:
        return f"{entry.name} is altered ({size} bytes instead of {entry.size})"
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
            return f"{entry.name} is altered (SHA-256 differs)"
    return None
