"""The members of a zip file, read into memory; whatever is wrong with the file is one line that names it."""

import lzma
import struct
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

_MESSAGE = 80  # characters of what a file says that an error repeats

# What zipfile raises of files that are damaged, encrypted, compressed in a way it does not know, or no zips at all.
_ERRORS = (OSError, EOFError, RuntimeError, ValueError, struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


class Archive:
    """A zip file's members by name. Nothing is extracted, so a name is a name and never a path.

    ValueError for a file that is not there or no zip, and for one that has two members of a name: which of them counts
    would differ from reader to reader.
    """

    def __init__(self, source: Path | bytes, name: str) -> None:
        """name: what errors call it."""
        self.name = name
        try:
            self._zip = zipfile.ZipFile(BytesIO(source) if isinstance(source, bytes) else source)
        except FileNotFoundError as error:
            raise ValueError(f"{name}: there is no such file") from error
        except IsADirectoryError as error:
            raise ValueError(f"{name}: is a folder, not a zip file") from error
        except PermissionError as error:
            raise ValueError(f"{name}: cannot be read: permission denied") from error
        except _ERRORS as error:
            raise ValueError(f"{name}: is no zip file, or a damaged one ({shown(error)})") from error
        self.members = {member.filename: member for member in self._zip.infolist()}
        if len(self.members) < len(self._zip.infolist()):
            names = [member.filename for member in self._zip.infolist()]
            twice = next(member for place, member in enumerate(names) if member in names[:place])
            self.close()
            raise ValueError(f"{name}: has two members called {shown(twice)}")

    def close(self) -> None:
        self._zip.close()

    def read(self, member: str, limit: int) -> bytes:
        """The member, its checksum verified; ValueError where it is missing, damaged, or of more than `limit` bytes.

        Nor is more ever unpacked: a member that is larger than it says is cut off there, and its checksum wrong.
        """
        if member not in self.members:
            raise ValueError(f"{self.name}: has no {shown(member)}")
        size = self.members[member].file_size
        if size > limit:
            raise ValueError(f"{self.name}: {shown(member)} has {size:,} bytes; at most {limit:,} are read")
        try:
            content = self._zip.read(member)
        except _ERRORS as error:
            raise ValueError(f"{self.name}: {shown(member)} cannot be read ({shown(error)})") from error
        if len(content) != size:
            raise ValueError(f"{self.name}: {shown(member)} has {len(content)} bytes, the zip file says {size}")
        return content


def shown(value: object) -> str:
    """What a file says, fit to be a part of a line: plain characters, and not too many."""
    text = ascii(str(value))[1:-1]
    return text if len(text) <= _MESSAGE else f"{text[:_MESSAGE]}..."
