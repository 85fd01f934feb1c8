"""What only ever grows at one end, as a leaf of a state: a checkpoint writes of it what is new."""

from collections.abc import Callable

from torch import Tensor

Digests = dict[tuple[int, int], str]


class History:
    """Rows [first, end) of an append-only log, numbered from the first row ever added; a row never changes.

    So a row counts once all of it is final, and the oldest may be dropped (`first` moves on). What `read` gives has to
    stay there until the state is saved, as with any tensor of a state.
    """

    def __init__(
        self, first: int, end: int, read: Callable[[int, int], dict[str, Tensor]], digests: Digests | None = None
    ) -> None:
        """read: rows [start, stop), start == stop included, as tensors [stop - start, ...] by name, without "/".

        digests: SHA-256 of the segments [start, stop) of these rows that were written or verified before; saving fills
        it. An owner keeps one for as long as it keeps its rows, gives the same one to each of its histories, and on
        `load_state_dict` takes over a copy of the loaded history's. Rows that came another way need a new one.
        """
        assert 0 <= first <= end, (first, end)
        self.first, self.end = first, end
        self.digests: Digests = {} if digests is None else digests
        self._read = read

    def read(self, start: int, stop: int) -> dict[str, Tensor]:
        """Rows [start, stop), each tensor [stop - start, ...]; they may be views of what the owner goes on writing to.

        Of a history that was loaded they are copies; ask for few at a time, and the data are never held twice.
        ValueError if it was loaded unverified and the file turns out to be damaged.
        """
        assert self.first <= start <= stop <= self.end, (self.first, start, stop, self.end)
        return self._read(start, stop)
