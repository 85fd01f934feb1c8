"""A history on the disk: whole segments in files that are named by their SHA-256 and shared by checkpoints.

A segment is rows [k * n, (k + 1) * n), n a power of two such that it has about 16 MB. So what a segment is follows from
the rows' numbers alone, and a save finds those that an earlier one has written. The rows before the first whole segment
and after the last one are left over, less than two segments together.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor

from ..engine.history import History
from .durable import Entry, make_directory, sync_directory, write_file
from .state_tree import Form, Layout, form, layout, raw, tensor_bytes

SEGMENTS = "segments"
SEGMENT_BYTES = 2**24  # at most; a shorter one makes more files, a longer one more rows that every save writes again

_SUFFIX = ".safetensors"
_NAME, _DIGEST = re.compile(r"[0-9a-f]{64}\.safetensors"), re.compile(rb"[0-9a-f]{64}")


class Cut(NamedTuple):
    """Where a history is cut; rows [start, stop) are in segments, the others are left over."""

    first: int
    start: int
    stop: int
    end: int
    rows: int  # of a segment

    @classmethod
    def of(cls, first: int, end: int, rows: int) -> Self:
        start, stop = -(-first // rows) * rows, end // rows * rows
        return cls(first, start, stop, end, rows) if start < stop else cls(first, first, first, end, rows)

    @property
    def spans(self) -> list[tuple[int, int]]:
        return [(row, row + self.rows) for row in range(self.start, self.stop, self.rows)]


class Written(NamedTuple):
    record: dict[str, object]  # for meta.json, what `MappedHistory` needs to find it all again
    left_over: dict[str, Tensor]
    entries: list[Entry]  # of the segments, as seen from a checkpoint beside their folder


def write_history(history: History, folder: Path, scratch: Path, segment_bytes: int) -> Written:
    """Every whole segment is in `folder`, and on the disk, once this returns; only what is not there yet is written.

    There is one whose digest the history knows and whose file has the right size. Its contents are not looked at
    again: that they are still right is seen when they are loaded. scratch: an empty directory on the same file system.
    """
    forms = _forms(history)
    rows = _segment_rows(forms, segment_bytes)
    cut, nbytes = Cut.of(history.first, history.end, rows), _segment_layout(forms, rows).nbytes
    if cut.spans:
        make_directory(folder)
    names = []
    for span in cut.spans:
        digest = history.digests.get(span)
        if digest is None or not _has_size(folder / f"{digest}{_SUFFIX}", nbytes):
            entry = write_file(scratch / SEGMENTS, tensor_bytes(history.read(*span)))
            assert entry.size == nbytes, f"rows {span} have other shapes or types than the rest"
            digest = history.digests[span] = entry.sha256
            os.replace(scratch / SEGMENTS, folder / f"{digest}{_SUFFIX}")
        names.append(digest)
    if cut.spans:
        sync_directory(folder)
    for span in [span for span in history.digests if span[0] < history.first]:
        del history.digests[span]

    head, tail = history.read(cut.first, cut.start), history.read(cut.stop, cut.end)
    left_over = {name: torch.cat((head[name], tail[name])) if len(head[name]) else tail[name] for name in forms}
    entries = [Entry(digest, nbytes, f"../{SEGMENTS}/{digest}{_SUFFIX}") for digest in sorted(set(names))]
    record = {"first": cut.first, "end": cut.end, "segment_rows": rows, "segment_bytes": nbytes, "segments": names}
    return Written(record, left_over, entries)


class MappedHistory:
    """A history as it was written, read from its files when asked for rows.

    The files are mapped: until `release` they can be read even if they were deleted in the meantime, and take room on
    the disk for as long.
    """

    def __init__(self, record: object, left_over: dict[str, Tensor], folder: Path, *, verified: bool) -> None:
        """verified: the files are known to be good; otherwise each is verified before its first row is given.

        ValueError, LookupError or TypeError if the parts do not fit together, OSError if a file is not there.
        """
        if not isinstance(record, dict) or not left_over:
            raise ValueError("a history without a record, or without rows")
        first, end, rows, nbytes = (record[key] for key in ("first", "end", "segment_rows", "segment_bytes"))
        self._cut, self._digests, self._left_over = Cut.of(first, end, rows), list(record["segments"]), left_over
        forms = {name: form(tensor[:0]) for name, tensor in left_over.items()}
        self._layout, self._folder = _segment_layout(forms, rows), folder
        spans, num_left = self._cut.spans, end - first - (self._cut.stop - self._cut.start)
        if len(spans) != len(self._digests) or any(len(tensor) != num_left for tensor in left_over.values()):
            raise ValueError(f"rows of the history [{first}, {end}) are missing")
        if nbytes != self._layout.nbytes:
            raise ValueError("the history's segments have another size than its rows")
        self._files: list[Tensor] | None = [self._map(digest) for digest in self._digests]
        self._is_verified = [verified] * len(spans)
        self.history = History(
            first, end, self._read, dict(zip(spans, self._digests, strict=True)) if verified else None
        )

    def release(self) -> None:
        """Let go of the files: no row can be read any more."""
        self._files = None

    def _map(self, digest: str) -> Tensor:
        path, nbytes = self._folder / f"{digest}{_SUFFIX}", self._layout.nbytes
        try:
            # Not Python's mmap, which keeps a file descriptor for each.
            file = torch.from_file(str(path), shared=False, size=nbytes, dtype=torch.uint8, device="cpu")
        except RuntimeError as error:
            raise OSError(f"{path} cannot be mapped") from error
        header = self._layout.header
        if raw(file[: len(header)]) != header:
            raise ValueError(f"{path} has other rows than this history")
        return file

    def _read(self, start: int, stop: int) -> dict[str, Tensor]:
        rows = {name: rows.new_empty((stop - start, *rows.shape[1:])) for name, rows in self._left_over.items()}
        cut, row = self._cut, start
        while row < stop:
            if cut.start <= row < cut.stop:
                index, at = divmod(row - cut.start, cut.rows)
                until = min(stop, row - at + cut.rows)
                source = self._segment(index)
            elif row < cut.start:
                source, at, until = self._left_over, row - cut.first, min(stop, cut.start)
            else:
                source, at, until = self._left_over, row - cut.stop + cut.start - cut.first, stop
            for name, tensor in rows.items():
                tensor[row - start : until - start] = source[name][at : at + until - row]
            row = until
        return rows

    def _segment(self, index: int) -> dict[str, Tensor]:
        """Views of the file."""
        if self._files is None:
            raise ValueError(f"the history in {self._folder} was released")
        file, digest = self._files[index], self._digests[index]
        if not self._is_verified[index]:
            if hashlib.sha256(raw(file)).hexdigest() != digest:
                raise ValueError(f"{self._folder / digest}{_SUFFIX} is altered (SHA-256 differs)")
            self._is_verified[index] = True
            self.history.digests[self._cut.spans[index]] = digest
        segment = {}
        for name, offset in self._layout.offsets.items():
            left_over = self._left_over[name]
            shape = Form(left_over.dtype, (self._cut.rows, *left_over.shape[1:]))
            segment[name] = file[offset : offset + shape.nbytes].view(shape.dtype).view(shape.shape)
        return segment


def fingerprint(history: History, segment_bytes: int = SEGMENT_BYTES) -> dict[str, object]:
    """Plain values that differ if a row, its number, shape or type does; however the rows are cut."""
    forms = _forms(history)
    hashers = {name: hashlib.sha256() for name in forms}
    step = _segment_rows(forms, segment_bytes)
    for start in range(history.first, history.end, step):
        for name, rows in history.read(start, min(start + step, history.end)).items():
            hashers[name].update(raw(rows))
    tensors = {name: [str(rows.dtype), list(rows.shape[1:]), hashers[name].hexdigest()] for name, rows in forms.items()}
    return {"first": history.first, "end": history.end, "tensors": tensors}


def sweep(folder: Path, files: Iterable[Path]) -> None:
    """Delete the segments whose SHA-256 is in none of the files; nothing if one of these cannot be read."""
    named: set[bytes] = set()
    for file in files:
        try:
            named.update(_DIGEST.findall(file.read_bytes()))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return
    names = [name for name in os.listdir(folder) if _NAME.fullmatch(name)]
    unnamed = [name for name in names if name.removesuffix(_SUFFIX).encode() not in named]
    if unnamed:
        # A power cut must not bring back a checkpoint's name without its segments.
        sync_directory(folder.parent)
    for name in unnamed:
        (folder / name).unlink(missing_ok=True)


def _forms(history: History) -> dict[str, Form]:
    """Of no rows: [0, ...]."""
    forms = {name: form(rows) for name, rows in history.read(history.first, history.first).items()}
    assert forms, "a history of no tensors"
    return forms


def _segment_rows(forms: Mapping[str, Form], segment_bytes: int) -> int:
    """The largest power of two whose rows fit; at least 1."""
    row = sum(Form(dtype, shape[1:]).nbytes for dtype, shape in forms.values())
    return 1 << (max(segment_bytes // max(row, 1), 1).bit_length() - 1)


def _segment_layout(forms: Mapping[str, Form], rows: int) -> Layout:
    return layout({name: Form(dtype, (rows, *shape[1:])) for name, (dtype, shape) in forms.items()})


def _has_size(path: Path, nbytes: int) -> bool:
    try:
        return os.stat(path).st_size == nbytes
    except FileNotFoundError:
        return False
