"""Where the ledger lies: objects that are put once and never change."""

from __future__ import annotations

from bisect import bisect_left, insort
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from botocore.exceptions import ClientError

from marketplace_constructs.runtime.aws import error_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_TRIES: Final = 5


class Objects(Protocol):
    """Named bytes. Listings and reads see whatever was put before them."""

    def put_new(self, key: str, content: bytes) -> bool:
        """Put an object unless there is one of this name.

        Returns:
            Whether the object there holds this very content: an SDK that repeats a write whose answer was lost is not
            told that it came too late.
        """
        ...

    def get(self, key: str) -> bytes | None:
        """An object's content; None where there is none of this name."""
        ...

    def keys(self, prefix: str, *, after: str = "") -> list[str]:
        """The names that begin so, sorted; those behind ``after`` alone."""
        ...


class S3Objects:
    """Objects of an S3 bucket under a prefix.

    Source: S3 user guide, conditional writes: 412 where the object exists, 409 while another writer is at it, to be
    tried again; data consistency model: strong for reads and listings (read 2026-11-22).
    """

    def __init__(self, client: S3Client, bucket: str, prefix: str = "") -> None:
        self._client: Final = client
        self._bucket: Final = bucket
        self._prefix: Final = prefix

    def put_new(self, key: str, content: bytes) -> bool:
        """Put an object unless there is one of this name."""
        for tries_left in reversed(range(_TRIES)):
            try:
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=self._prefix + key,
                    Body=content,
                    ContentType="application/json",
                    IfNoneMatch="*",
                )
            except ClientError as error:
                if error_code(error) == "PreconditionFailed":
                    break
                if error_code(error) != "ConditionalRequestConflict" or not tries_left:
                    raise
            else:
                return True
        return self.get(key) == content

    def get(self, key: str) -> bytes | None:
        """An object's content."""
        try:
            return self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"].read()
        except ClientError as error:
            if error_code(error) == "NoSuchKey":
                return None
            raise

    def keys(self, prefix: str, *, after: str = "") -> list[str]:
        """The names that begin so."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket,
            Prefix=self._prefix + prefix,
            StartAfter=self._prefix + after,
        )
        return [found["Key"].removeprefix(self._prefix) for page in pages for found in page.get("Contents", ())]


class MemoryObjects:
    """Objects in a dictionary."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._keys: list[str] = []

    def put_new(self, key: str, content: bytes) -> bool:
        """Put an object unless there is one of this name."""
        if key not in self._objects:
            self._objects[key] = content
            insort(self._keys, key)
        return self._objects[key] == content

    def get(self, key: str) -> bytes | None:
        """An object's content."""
        return self._objects.get(key)

    def keys(self, prefix: str, *, after: str = "") -> list[str]:
        """The names that begin so."""
        found = []
        for key in islice(self._keys, bisect_left(self._keys, max(prefix, f"{after}\0" if after else "")), None):
            if not key.startswith(prefix):
                break
            found.append(key)
        return found


class DirectoryObjects:
    """Objects as files of a directory, such as a copy of the ledger's bucket."""

    def __init__(self, directory: Path) -> None:
        self._directory: Final = directory

    def put_new(self, key: str, content: bytes) -> bool:
        """Put an object unless there is one of this name."""
        path = self._directory / key
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb") as file:
                file.write(content)
        except FileExistsError:
            return path.read_bytes() == content
        return True

    def get(self, key: str) -> bytes | None:
        """An object's content."""
        path = self._directory / key
        return path.read_bytes() if path.is_file() else None

    def keys(self, prefix: str, *, after: str = "") -> list[str]:
        """The names that begin so."""
        names = (path.relative_to(self._directory).as_posix() for path in self._directory.rglob("*") if path.is_file())
        return sorted(name for name in names if name.startswith(prefix) and name > after)
