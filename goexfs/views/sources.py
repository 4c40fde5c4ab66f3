"""A content as what parsers of files take: an open binary file, or a private copy on the disk.

Owns this translation, and the counting reader that bounds what an archive may unpack.  Knows no format.  Belongs to the
thread of the content.
"""

import io
from pathlib import Path
from typing import BinaryIO

from snapshots.layers.content import CHUNK, Readable


class TooMuch(Exception):
    """What is looked at is larger than a view looks at; the message says what."""


class Source:
    """One file, as it is before or after."""

    def __init__(self, path: bytes, content: Readable) -> None:
        self.path = path
        self.content = content
        self.size = content.size
        self.head = content.read(0, 8192)

    def whole(self, most: int) -> bytes:
        """All bytes; TooMuch above ``most``."""
        if self.size > most:
            raise TooMuch(f"{self.size:,} bytes, and files above {most:,} are not looked into")
        return self.content.read(0, self.size)

    def open(self) -> BinaryIO:
        """A seekable file of it."""
        return io.BufferedReader(_File(self.content), CHUNK)

    def copy(self, target: Path, most: int) -> None:
        """Write a copy; TooMuch above ``most``."""
        if self.size > most:
            raise TooMuch(f"{self.size:,} bytes, and files above {most:,} are not looked into")
        with target.open("xb") as file:
            for offset in range(0, self.size, CHUNK):
                file.write(self.content.read(offset, CHUNK))


class _File(io.RawIOBase):
    def __init__(self, content: Readable) -> None:
        super().__init__()
        self._content = content
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._content.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = self._content.read(self._at, len(view))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


class Counted(io.RawIOBase):
    """Reads from a stream until ``most`` bytes came out of it, then raises TooMuch."""

    def __init__(self, stream: BinaryIO, most: int) -> None:
        super().__init__()
        self._stream = stream
        self._most = most
        self._left = most

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """See ``io``; never more than a piece at a time."""
        data = self._stream.read(CHUNK if size < 0 else min(size, CHUNK))
        self._left -= len(data)
        if self._left < 0:
            raise TooMuch(f"it unpacks to more than {self._most:,} bytes, and no more is looked at")
        return data
