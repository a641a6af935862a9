"""The secret that signs buyers' sessions: how it is read, and how Secrets Manager rotates it.

A rotation throws no buyer out. Every instance of the function reads the secret again within five minutes, and
reads the pending version too; a version begins to sign only when it is six minutes old. So no instance ever
meets a signature of a version that it does not know.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol, TypedDict

from botocore.exceptions import ClientError

from marketplace_constructs.runtime.aws import client, error_code, is_transient

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

    from marketplace_constructs.runtime.clock import Clock

CACHED_FOR: Final = timedelta(minutes=5)
SIGNS_AFTER: Final = CACHED_FOR + timedelta(minutes=1)
SHORTEST: Final = 32
"""Characters."""


@dataclass(frozen=True, kw_only=True)
class SigningKey:
    """One version of the secret.

    Args:
        value: Kept out of the representation.
        is_pending: A rotation is making it; it verifies and does not sign yet.
    """

    version: str
    value: str = field(repr=False)
    created_at: datetime
    is_pending: bool = False


class SigningSecret(Protocol):
    """Where the versions come from."""

    def keys(self) -> tuple[SigningKey, ...]:
        """The versions that verify, each once, in no order; at least one of them is not pending."""
        ...


def in_signing_order(keys: tuple[SigningKey, ...], now: datetime) -> list[str]:
    """The values, the one that signs last: the newest that every instance knows by now."""
    signers = sorted((key for key in keys if not key.is_pending), key=lambda key: key.created_at)
    settled = [key for key in signers if now - key.created_at >= SIGNS_AFTER]
    signer = settled[-1] if settled else signers[0]
    return [key.value for key in keys if key is not signer] + [signer.value]


class SecretsManagerSigningSecret:
    """Reads the current, the previous and the pending version, and keeps them for five minutes.

    Source: Secrets Manager user guide, What's in a secret: staging labels; botocore 1.44.5, secretsmanager
    2017-10-17, GetSecretValue (read 2026-11-21).
    """

    def __init__(self, client: SecretsManagerClient, secret_id: str, clock: Clock) -> None:
        self._client: Final = client
        self._secret_id: Final = secret_id
        self._clock: Final = clock
        self._keys: tuple[SigningKey, ...] = ()
        self._read_at: datetime | None = None

    def keys(self) -> tuple[SigningKey, ...]:
        """The versions that verify. While AWS cannot be asked, those that were read last."""
        now = self._clock()
        if self._read_at is None or now - self._read_at >= CACHED_FOR:
            try:
                self._keys, self._read_at = self._read(), now
            except Exception as error:
                if not self._keys or not is_transient(error):
                    raise
        return self._keys

    def _read(self) -> tuple[SigningKey, ...]:
        found: dict[str, SigningKey] = {}
        for stage in ("AWSCURRENT", "AWSPREVIOUS", "AWSPENDING"):
            try:
                answer = self._client.get_secret_value(SecretId=self._secret_id, VersionStage=stage)
            except ClientError as error:
                # Before the first rotation there is no previous version, and mostly no pending one.
                if stage != "AWSCURRENT" and error_code(error) == "ResourceNotFoundException":
                    continue
                raise
            found.setdefault(
                answer["VersionId"],
                SigningKey(
                    version=answer["VersionId"],
                    value=answer["SecretString"],
                    created_at=answer["CreatedDate"],
                    is_pending=stage == "AWSPENDING",
                ),
            )
        return tuple(found.values())


class RotationEvent(TypedDict):
    """What Secrets Manager sends. Source: Secrets Manager user guide, Rotation by Lambda function."""

    Step: str
    SecretId: str
    ClientRequestToken: str


class RotationFailed(Exception):
    """Secrets Manager shows it in the secret's rotation status and tries again."""


def handler(event: RotationEvent, context: object) -> None:  # noqa: ARG001 - Lambda passes both
    """Do one step of a rotation; each may be repeated.

    Raises:
        RotationFailed: The event does not fit the secret.
    """
    rotate(client("secretsmanager"), event)


def rotate(client: SecretsManagerClient, event: RotationEvent) -> None:
    """Do one step of a rotation.

    Source: Secrets Manager user guide, Rotation by Lambda function: the four steps (read 2026-11-21).
    """
    secret_id, version = event["SecretId"], event["ClientRequestToken"]
    stages = client.describe_secret(SecretId=secret_id).get("VersionIdsToStages", {})
    if "AWSCURRENT" in stages.get(version, ()):
        return
    if "AWSPENDING" not in stages.get(version, ()):
        raise RotationFailed("the version is not staged as pending")
    match event["Step"]:
        case "createSecret":
            _create(client, secret_id, version)
        case "setSecret":
            pass  # nobody else is told the secret
        case "testSecret":
            answer = client.get_secret_value(SecretId=secret_id, VersionId=version, VersionStage="AWSPENDING")
            if len(answer["SecretString"]) < SHORTEST:
                raise RotationFailed("the pending version is too short")
        case "finishSecret":
            current = next((v for v, labels in stages.items() if "AWSCURRENT" in labels), None)
            moved = {"RemoveFromVersionId": current} if current else {}
            client.update_secret_version_stage(
                SecretId=secret_id, VersionStage="AWSCURRENT", MoveToVersionId=version, **moved
            )
        case _:
            raise RotationFailed("unknown step")


def _create(client: SecretsManagerClient, secret_id: str, version: str) -> None:
    """Make the pending version unless an earlier attempt did."""
    try:
        client.get_secret_value(SecretId=secret_id, VersionId=version, VersionStage="AWSPENDING")
    except ClientError as error:
        if error_code(error) != "ResourceNotFoundException":
            raise
        client.put_secret_value(
            SecretId=secret_id,
            ClientRequestToken=version,
            SecretString=secrets.token_urlsafe(48),
            VersionStages=["AWSPENDING"],
        )
