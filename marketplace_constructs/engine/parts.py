"""Files of lines as the engine reads them: plain and part by part, each line whole.

DuckDB inflates gzip with a library that takes twice as long as ISA-L does, so files are unpacked before it, in a thread
of their own; decision 10 has the figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from gzip import BadGzipFile
from io import BufferedReader
from pathlib import Path
from typing import Final, cast

PART_BYTES: Final = 128_000_000
"""About how large a part is. Two lie on disk at a time."""
_BLOCK: Final = 256 * 1024
_GZIP: Final = b"\x1f\x8b"


class UnpackingError(Exception):
    """A file is no whole gzip file.

    Args:
        file: Its index.
        reason: What the library says; nothing of the content.
    """

    def __init__(self, file: int, reason: str) -> None:
        super().__init__(f"file {file}: {reason}")
        self.file: Final = file
        self.reason: Final = reason


@dataclass(frozen=True, kw_only=True)
class Part:
    """Whole lines, each ended by a newline.

    Args:
        path: Where they are until the next part is asked for.
        files: Indices of the files that they come from.
        read: Bytes, as they are stored, that were read of all files so far.
    """

    path: Path
    files: frozenset[int]
    read: int


def unpacked(files: Iterable[Path], directory: Path) -> Iterator[Part]:
    """The lines of some files, in their order; at least one part, which is empty where there are none.

    Args:
        files: Plain or gzip, told apart by content. They are asked for one by one, from another thread, and each is
            read before the next is asked for.
        directory: An empty one, for the parts.

    Raises:
        UnpackingError: A file is no whole gzip file.
    """
    parts = _Parts(files, directory)
    with ThreadPoolExecutor(1) as ahead:
        future = ahead.submit(parts.next)
        while (part := future.result()) is not None:
            future = ahead.submit(parts.next)
            yield part


class _Parts:
    def __init__(self, files: Iterable[Path], directory: Path) -> None:
        self._blocks: Final = _blocks(files)
        self._directory: Final = directory
        self._count = self._read = 0
        self._rest = b""

    def next(self) -> Part | None:
        path, size, files = self._file(), len(self._rest), set[int]()
        # Until the first is there, nothing can be read.
        limit = PART_BYTES if self._count > 1 else PART_BYTES // 4
        with path.open("r+b") as part:
            part.write(self._rest)
            self._rest = b""
            for number, read, block in self._blocks:
                self._read = read
                files.add(number)
                cut = bytes(block).rfind(b"\n") + 1 if size + len(block) >= limit else 0
                part.write(block[:cut] if cut else block)
                size += cut or len(block)
                if cut:
                    # More of the same file follows a rest, if only the newline that it lacks.
                    self._rest = bytes(block[cut:])
                    break
            part.truncate(size)
        return Part(path=path, files=frozenset(files), read=self._read) if size or self._count == 1 else None

    def _file(self) -> Path:
        """A name of its own for each part, and the pages of the part before the last, which cost less than new ones."""
        path, before = (self._directory / f"{number}.part" for number in (self._count, self._count - 2))
        self._count += 1
        if before.exists():
            before.rename(path)
        else:
            path.touch()
        return path


def lines(path: Path) -> Iterator[bytes]:
    """A file's lines one by one, without their ends; blank ones left out.

    Args:
        path: Plain or gzip.

    Raises:
        UnpackingError: It is no whole gzip file.
    """
    for block in blocks(path):
        yield from lines_of(block)


def lines_of(block: bytes) -> Iterator[bytes]:
    """The lines of a block, as ``lines`` gives them."""
    return (line for line in block.split(b"\n") if line.strip())


def blocks(path: Path) -> Iterator[bytes]:
    """What a file holds, in blocks of whole lines.

    Args:
        path: Plain or gzip.

    Raises:
        UnpackingError: It is no whole gzip file.
    """
    rest = b""
    with path.open("rb") as stored:
        plain = _plain(stored)
        try:
            while block := plain.read(_BLOCK):
                whole, end, begun = block.rpartition(b"\n")
                if end:
                    yield rest + whole
                    rest = begun
                else:
                    rest += block
        except _faults() as error:
            raise UnpackingError(0, str(error)) from None
    yield rest


def _plain(stored: BufferedReader) -> BufferedReader:
    from isal.igzip import GzipFile  # noqa: PLC0415 - the policy layer is also loaded where there is none

    return cast(BufferedReader, GzipFile(fileobj=stored)) if stored.peek(2)[:2] == _GZIP else stored  # type: ignore[no-untyped-call]


def _faults() -> tuple[type[Exception], ...]:
    from isal.isal_zlib import IsalError  # noqa: PLC0415 - as above

    return (EOFError, BadGzipFile, IsalError)  # type: ignore[return-value]  # its stub calls it an instance


def _blocks(files: Iterable[Path]) -> Iterator[tuple[int, int, memoryview]]:
    """Index of the file, bytes read of all, and what they are; the latter until the next is asked for."""
    buffer, done = memoryview(bytearray(_BLOCK)), 0
    for number, path in enumerate(files):
        with path.open("rb") as stored:
            plain, is_ended = _plain(stored), True
            try:
                while size := plain.readinto(buffer):
                    is_ended = buffer[size - 1] == 10
                    yield number, done + stored.tell(), buffer[:size]
            except _faults() as error:
                raise UnpackingError(number, str(error)) from None
            done += stored.tell()
            if not is_ended:
                yield number, done, memoryview(b"\n")
