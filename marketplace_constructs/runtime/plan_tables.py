"""Where plan tables are kept: each under the digest of its text, put once, never changed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from botocore.exceptions import ClientError

from marketplace_constructs.runtime.aws import error_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_TRIES: Final = 3


class PlanTables(Protocol):
    """Every plan table that ever was deployed."""

    def put(self, text: str) -> str:
        """Keep a table; its digest."""
        ...

    def get(self, digest: str) -> str | None:
        """The table's text; None where there is none of that digest."""
        ...


class S3PlanTables:
    """Tables as objects ``plan-tables/<digest>.json``."""

    def __init__(self, client: S3Client, bucket: str) -> None:
        self._client: Final = client
        self._bucket: Final = bucket

    def put(self, text: str) -> str:
        """Keep a table unless it is there.

        Source: S3 user guide, conditional writes: 412 where the object exists, 409 while another writer is at it, to
        be tried again (read 2026-11-22).
        """
        digest = hashlib.sha256(text.encode()).hexdigest()
        for tries_left in reversed(range(_TRIES)):
            try:
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=_key(digest),
                    Body=text.encode(),
                    ContentType="application/json",
                    IfNoneMatch="*",
                )
            except ClientError as error:
                if error_code(error) == "PreconditionFailed":
                    break
                if error_code(error) != "ConditionalRequestConflict" or not tries_left:
                    raise
            else:
                break
        return digest

    def get(self, digest: str) -> str | None:
        """The table's text."""
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=_key(digest))
        except ClientError as error:
            if error_code(error) == "NoSuchKey":
                return None
            raise
        return answer["Body"].read().decode()


class DirectoryPlanTables:
    """Tables as files ``<digest>.json`` of a directory, such as a copy of the bucket's ``plan-tables/``."""

    def __init__(self, directory: Path) -> None:
        self._directory: Final = directory

    def put(self, text: str) -> str:
        """Keep a table; its digest."""
        digest = hashlib.sha256(text.encode()).hexdigest()
        self._directory.mkdir(parents=True, exist_ok=True)
        (self._directory / f"{digest}.json").write_text(text, encoding="utf-8")
        return digest

    def get(self, digest: str) -> str | None:
        """The table's text."""
        path = self._directory / f"{digest}.json"
        return path.read_text(encoding="utf-8") if path.is_file() else None


def _key(digest: str) -> str:
    return f"plan-tables/{digest}.json"
