"""The files of the access log, as Firehose delivers them: by the hour in which they arrived."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from botocore.exceptions import ClientError

from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem
from marketplace_constructs.engine.parts import UnpackingError
from marketplace_constructs.runtime.aws import error_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PART_BYTES: Final = 1_000_000


@dataclass(frozen=True, kw_only=True)
class LogFile:
    """One file.

    Args:
        modified_at: When it was there whole.
        size: In bytes, as it is stored.
    """

    name: str
    modified_at: datetime
    size: int


class LogFiles(Protocol):
    """The log of one stage."""

    def arrived_in(self, hour: datetime) -> Iterator[LogFile]:
        """The files of the hour in which their first line arrived."""
        ...

    def fetch(self, name: str, path: Path) -> None:
        """Write a file's content to a path."""
        ...

    def quarantine(self, name: str, content: bytes) -> bool:
        """Keep lines of a file that cannot be read; whether they were not kept already."""
        ...


@contextmanager
def names_damaged(names: Sequence[str]) -> Iterator[None]:
    """Where a file turns out damaged, say which.

    Raises:
        MarketplaceConstructsError: MP-METER-02: it is no whole gzip file.
    """
    try:
        yield
    except UnpackingError as error:
        raise MarketplaceConstructsError(
            Problem(
                "MP-METER-02",
                f"log file {names[error.file]}, got {error.reason}; expected a whole file, plain or gzip; put back the "
                "version that Firehose wrote, or move it away once its lines are put aside",
            )
        ) from None


class S3LogFiles:
    """Files in S3, under ``<prefix>YYYY/MM/DD/HH/``; lines that cannot be read under ``quarantine/``.

    Source: Firehose developer guide, Amazon S3 object names: UTC time of arrival (read 2026-11-22).
    """

    def __init__(self, client: S3Client, bucket: str, prefix: str = "") -> None:
        self._client: Final = client
        self._bucket: Final = bucket
        self._prefix: Final = prefix

    def arrived_in(self, hour: datetime) -> Iterator[LogFile]:
        """The files of an hour."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=f"{self._prefix}{hour:%Y/%m/%d/%H}/"
        )
        for page in pages:
            for found in page.get("Contents", ()):
                yield LogFile(name=found["Key"], modified_at=found["LastModified"], size=found["Size"])

    def fetch(self, name: str, path: Path) -> None:
        """Write a file's content to a path."""
        body = self._client.get_object(Bucket=self._bucket, Key=name)["Body"]
        with path.open("wb") as file:
            for part in body.iter_chunks(_PART_BYTES):
                file.write(part)

    def quarantine(self, name: str, content: bytes) -> bool:
        """Keep lines of a file."""
        try:
            self._client.put_object(
                Bucket=self._bucket, Key=f"quarantine/{name}", Body=content, IfNoneMatch="*", ContentType="text/plain"
            )
        except ClientError as error:
            if error_code(error) == "PreconditionFailed":
                return False
            raise
        return True


class DirectoryLogFiles:
    """Files of a directory, such as a copy of the log, under ``YYYY/MM/DD/HH/`` too.

    Args:
        directory: As ``aws s3 sync`` fills it, which keeps each file's time.
    """

    def __init__(self, directory: Path) -> None:
        self._directory: Final = directory

    def arrived_in(self, hour: datetime) -> Iterator[LogFile]:
        """The files of an hour."""
        for path in sorted((self._directory / f"{hour:%Y/%m/%d/%H}").glob("*")):
            if path.is_file():
                found = path.stat()
                yield LogFile(
                    name=path.relative_to(self._directory).as_posix(),
                    modified_at=datetime.fromtimestamp(found.st_mtime, UTC),
                    size=found.st_size,
                )

    def fetch(self, name: str, path: Path) -> None:
        """Write a file's content to a path."""
        shutil.copyfile(self._directory / name, path)

    def quarantine(self, name: str, content: bytes) -> bool:
        """Keep lines of a file."""
        path = self._directory / "quarantine" / name
        if path.exists():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return True


class MemoryLogFiles:
    """Files in a dictionary."""

    def __init__(self) -> None:
        self._files: dict[datetime, list[LogFile]] = {}
        self._contents: dict[str, bytes] = {}
        self.quarantined: dict[str, bytes] = {}

    def add(self, hour: datetime, name: str, content: bytes, *, modified_at: datetime) -> None:
        """Deliver a file."""
        file = LogFile(name=f"{hour:%Y/%m/%d/%H}/{name}", modified_at=modified_at, size=len(content))
        self._files.setdefault(hour, []).append(file)
        self._contents[file.name] = content

    def arrived_in(self, hour: datetime) -> Iterator[LogFile]:
        """The files of an hour."""
        return iter(sorted(self._files.get(hour, []), key=lambda file: file.name))

    def content(self, name: str) -> bytes:
        """A file's content."""
        return self._contents[name]

    def fetch(self, name: str, path: Path) -> None:
        """Write a file's content to a path."""
        path.write_bytes(self._contents[name])

    def quarantine(self, name: str, content: bytes) -> bool:
        """Keep lines of a file."""
        return name not in self.quarantined and self.quarantined.setdefault(name, content) is content
