"""A log is read part by part: every line whole, in order, and with the file it comes from."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketplace_constructs.engine import parts
from marketplace_constructs.engine.parts import UnpackingError, lines, unpacked

LINE = st.binary(min_size=0, max_size=60).map(lambda line: line.replace(b"\n", b""))
FILE = st.tuples(st.lists(LINE, max_size=12), st.booleans(), st.sampled_from(["plain", "gzip", "members"]))


def stored(content: bytes, how: str) -> bytes:
    if how == "plain":
        return content
    half = len(content) // 2
    return gzip.compress(content) if how == "gzip" else gzip.compress(content[:half]) + gzip.compress(content[half:])


@settings(deadline=None)
@given(files=st.lists(FILE, max_size=5), part_bytes=st.integers(1, 200), block=st.integers(1, 64))
def test_parts_hold_every_line_whole_in_order_and_say_where_it_comes_from(
    files: list[tuple[list[bytes], bool, str]], part_bytes: int, block: int
) -> None:
    wanted: list[tuple[int, bytes]] = []
    with tempfile.TemporaryDirectory() as name:
        paths, directory = [], Path(name, "parts")
        directory.mkdir()
        for number, (texts, is_ended, how) in enumerate(files):
            content = b"\n".join(texts) + (b"\n" if is_ended and texts else b"")
            if how == "plain" and content.startswith(b"\x1f\x8b"):
                content = b"x" + content
            paths.append(Path(name, str(number)))
            paths[-1].write_bytes(stored(content, how))
            wanted += [(number, line) for line in content.removesuffix(b"\n").split(b"\n") if content]
            with patch.object(parts, "_BLOCK", block):
                assert list(lines(paths[-1])) == [line for line in content.split(b"\n") if line.strip()]
        found: list[bytes] = []
        with patch.object(parts, "PART_BYTES", part_bytes), patch.object(parts, "_BLOCK", block):
            for part in unpacked(paths, directory):
                assert len(list(directory.iterdir())) <= 2
                content = part.path.read_bytes()
                assert content.endswith(b"\n") or not content
                held = content.removesuffix(b"\n").split(b"\n") if content else []
                assert len(content) <= part_bytes + max(map(len, held), default=0) + block + 1
                assert part.files == {number for number, _ in wanted[len(found) : len(found) + len(held)]}
                found += held
    assert found == [line for _, line in wanted]


def test_there_is_one_part_even_of_nothing(tmp_path: Path) -> None:
    (part,) = unpacked([], tmp_path)

    assert part.path.read_bytes() == b""
    assert part.files == frozenset()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-20],
        lambda content: content[:-6] + b"\0" + content[-5:],
        lambda content: content + b"{no gzip}",
    ],
)
def test_a_damaged_file_is_named(damage: object, tmp_path: Path) -> None:
    assert callable(damage)
    sound, damaged = tmp_path / "sound", tmp_path / "damaged"
    sound.write_bytes(b"{}\n")
    damaged.write_bytes(damage(gzip.compress(bytes(range(11, 256)) * 99)))
    directory = tmp_path / "parts"
    directory.mkdir()

    with pytest.raises(UnpackingError) as raised:
        list(unpacked([sound, damaged], directory))

    assert raised.value.file == 1
    with pytest.raises(UnpackingError):
        list(lines(damaged))


def test_a_fault_of_whoever_brings_the_files_comes_through(tmp_path: Path) -> None:
    def brought() -> Iterator[Path]:
        yield from ()
        raise TimeoutError

    with pytest.raises(TimeoutError):
        list(unpacked(brought(), tmp_path))


def test_a_file_is_read_before_the_next_is_asked_for(tmp_path: Path) -> None:
    """Whoever fetches them needs room for one alone."""
    path, directory = tmp_path / "fetched", tmp_path / "parts"
    directory.mkdir()

    def fetched() -> Iterator[Path]:
        for number in range(20):
            path.write_bytes(b"%d\n" % number * 50)
            yield path

    with patch.object(parts, "PART_BYTES", 64):
        found = [line for part in unpacked(fetched(), directory) for line in part.path.read_bytes().split()]

    assert found == [b"%d" % number for number in range(20) for _ in range(50)]
