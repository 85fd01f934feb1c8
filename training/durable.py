"""Files that survive a crash, and a directory of them that can prove it is whole."""

import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MANIFEST = "MANIFEST"

# A file beside the directory, that others may share: only one that is named by its contents.
_SHARED = re.compile(r"\.\./[a-z]+/[0-9a-f]{64}\.[a-z]+")


class Entry(NamedTuple):
    """One file as the manifest knows it."""

    sha256: str
    size: int  # bytes
    name: str  # in the directory, or "../FOLDER/SHA256.SUFFIX" of a shared one


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


def replace_file(path: Path, content: bytes) -> None:
    """The file holds `content`, and that is on the disk; or, with OSError, it is as it was, and nothing is left beside.

    One writer of a path at a time: what another has half written would be taken for a killed one's, and replaced.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        write_file(temporary, [content])
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()
    sync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """As replace_file, of UTF-8."""
    replace_file(path, text.encode())


def sync_directory(path: Path) -> None:
    """The names in `path` are on the disk; without this a power cut can take back a rename."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a directory; NTFS journals its names.
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """It is there, and its name is on the disk."""
    if not path.is_dir():
        os.makedirs(path, exist_ok=True)
        sync_directory(path.parent)


def seal(directory: Path, entries: Iterable[Entry]) -> None:
    """Write the manifest: size and SHA-256 of each file, by name, then of the manifest's own lines above."""
    write_file(directory / MANIFEST, [_manifest(sorted(entries, key=lambda entry: entry.name))])
    sync_directory(directory)


def find_problem(directory: Path, required: set[str], *, read_shared: bool = True) -> str | None:
    """What is wrong with a sealed directory, in one line that names the file; None promises every byte is as sealed.

    read_shared: False looks only whether shared files are there and have their size.
    """
    try:
        if not directory.is_dir():
            return "is missing or not a directory"
        entries = _entries(directory / MANIFEST)
        if isinstance(entries, str):
            return entries
        if unlisted := required - {entry.name for entry in entries}:
            return f"{MANIFEST} does not list {min(unlisted)}"
        own = [entry for entry in entries if not _SHARED.fullmatch(entry.name)]
        shared = [entry for entry in entries if _SHARED.fullmatch(entry.name)]
        # What is quickly seen comes first: the shared files may be many gigabytes.
        checks = [(_size_problem, own), (_size_problem, shared), (_contents_problem, own)]
        checks += [(_contents_problem, shared)] if read_shared else []
        problems = (find(directory, entry) for find, some in checks for entry in some)
        return next((problem for problem in problems if problem is not None), None)
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
    outside = (entry for entry in entries if {"/", os.sep} & set(entry.name))
    if _manifest(entries) != data or not all(_SHARED.fullmatch(entry.name) for entry in outside):
        return altered
    return entries


def _size_problem(directory: Path, entry: Entry) -> str | None:
    path, shown = directory / entry.name, entry.name.removeprefix("../")
    if not path.is_file():
        return f"{shown} is missing"
    size = path.stat().st_size
    if size < entry.size:
        return f"{shown} is truncated ({size} of {entry.size} bytes)"
    if size > entry.size:
        return f"{shown} is altered ({size} bytes instead of {entry.size})"
    return None


def _contents_problem(directory: Path, entry: Entry) -> str | None:
    with open(directory / entry.name, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
            return f"{entry.name.removeprefix('../')} is altered (SHA-256 differs)"
    return None
