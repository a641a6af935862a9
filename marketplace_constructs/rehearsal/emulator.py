"""The local AWS: ministack, in an environment of its own, on loopback, for as long as a rehearsal lasts.

It is never installed beside this package, because it pins a botocore of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from botocore.config import Config
from botocore.session import Session

from marketplace_constructs.bundles import cache_directory
from marketplace_constructs.rehearsal.errors import CouldNotRehearse

ACCOUNT: Final = "111122223333"
"""The seller's account. The emulator takes a twelve-digit access key id for the account itself."""
REGION: Final = "us-east-1"

_HERE: Final = Path(__file__).parent
_REQUIREMENTS: Final = _HERE / "emulator.txt"
_START_SECONDS: Final = 30
_STOP_SECONDS: Final = 5


def _environment() -> Path:
    """The emulator's environment: another one for other requirements and for another Python."""
    made_of = _REQUIREMENTS.read_bytes() + sys.version.encode()
    return cache_directory() / "emulator" / hashlib.sha256(made_of).hexdigest()[:16]


def _interpreter(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def is_installed() -> bool:
    """Whether the emulator's environment is there."""
    return _interpreter(_environment()).exists()


def install() -> Path:
    """Make the emulator's environment, from pinned and hashed packages, with byte code, if it is not there.

    Returns:
        The environment's directory.

    Raises:
        CouldNotRehearse: MP-REHEARSE-01, the package index cannot be reached or refuses.
    """
    environment = _environment()
    if is_installed():
        return environment
    from uv import find_uv_bin  # noqa: PLC0415  # only an installation needs it

    environment.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=environment.parent) as scratch:
        made = Path(scratch) / "environment"
        for command in (
            ["venv", "--quiet", "--python", sys.executable, str(made)],
            ["pip", "install", "--quiet", "--system-certs", "--compile-bytecode", "--require-hashes", "--python",
             str(_interpreter(made)), "--requirement", str(_REQUIREMENTS)],
        ):  # fmt: skip
            done = subprocess.run(  # noqa: S603  # our own arguments
                [find_uv_bin(), *command], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise CouldNotRehearse(
                    "MP-REHEARSE-01",
                    f"installing the emulator, got {_last_lines(done.stderr)!r}; expected it from the "
                    "package index; check that it can be reached and run sellable rehearse --install again",
                )
        try:
            made.rename(environment)
        except OSError:
            # Somebody else was first; theirs is made of the same files.
            if not is_installed():
                raise
    return environment


class LocalAws:
    """A local AWS on loopback; a context manager, and gone when it is left or when this process ends.

    It enforces IAM: a function may do what its deployed role allows, and nothing else.

    Args:
        environment: Further environment variables of the emulator and of every function, such as
            ``{"AWS_ENDPOINT_URL_MARKETPLACE_METERING": "http://127.0.0.1:1234"}``.
    """

    def __init__(self, *, environment: Mapping[str, str] | None = None) -> None:
        self._given = dict(environment or {})
        self._clients: dict[tuple[str, str], Any] = {}
        self.port = 0
        self.directory = Path()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The endpoint of every service."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def clock_file(self) -> Path:
        """Where the functions look up how many seconds they are ahead of real time."""
        return self.directory / "clock"

    @property
    def log(self) -> Path:
        """What the emulator and its functions wrote."""
        return self.directory / "emulator.log"

    def __enter__(self) -> Self:
        if not is_installed():
            raise CouldNotRehearse(
                "MP-REHEARSE-02",
                f"the local AWS, got no environment in {_environment()}; expected it to be installed; "
                "run sellable rehearse --install",
            )
        self.directory = Path(tempfile.mkdtemp(prefix="rehearsal-"))
        self.clock_file.write_text("0")
        self.port = free_port()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own arguments
                [str(_interpreter(_environment())), str(_HERE / "launcher.py")],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=self._environment_variables(),
            )
        try:
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def client(self, service: str, *, account: str = ACCOUNT) -> Any:
        """A client of one service, as one account; nothing of the user's own AWS configuration is read."""
        if (service, account) not in self._clients:
            self._clients[service, account] = local_client(service, self.url, account=account)
        return self._clients[service, account]

    def usage_plan_changes(self, key_id: str) -> list[tuple[datetime, str, str]]:
        """When a key ``joined`` or ``left`` which usage plan, earliest first; real time."""
        lines = (line.removeprefix("rehearsal ") for line in self.log.read_text(errors="replace").splitlines())
        told = [json.loads(line) for line in lines if line.startswith('{"usagePlanKey"')]
        return [
            (datetime.fromtimestamp(change["at"], UTC), change["usagePlanKey"], change["usagePlanId"])
            for change in told
            if change["keyId"] == key_id
        ]

    def set_ahead(self, seconds: float) -> None:
        """Let the functions' clock be so far ahead of real time, from now on."""
        written = self.clock_file.with_suffix(".new")
        written.write_text(str(seconds))
        written.replace(self.clock_file)

    def _environment_variables(self) -> dict[str, str]:
        # Made from nothing: a seller's own AWS_PROFILE or endpoint must not reach the functions.
        home = str(self.directory)
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": home,
            "TMPDIR": home,
            "S3_DATA_DIR": f"{home}/s3",
            "STATE_DIR": f"{home}/state",
            "AUTH": "true",
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.port),
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            "MINISTACK_ACCOUNT_ID": ACCOUNT,
            "MINISTACK_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ACCOUNT,
            "AWS_SECRET_ACCESS_KEY": "rehearsal",
            "AWS_EC2_METADATA_DISABLED": "true",
            "PYTHONPATH": str(_HERE / "functions"),
            "REHEARSAL_CLOCK": str(self.clock_file),
            **self._given,
        }

    def _wait(self) -> None:
        assert self._process is not None
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/_ministack/health", timeout=2):  # noqa: S310  # loopback
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        said = _last_lines(self.log.read_text(errors="replace"))
        raise CouldNotRehearse(
            "MP-REHEARSE-03",
            f"starting the local AWS, got {said!r}; expected an answer within {_START_SECONDS} s; "
            "run it again, and sellable rehearse --install if that does not help",
        )

    def _stop(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self.directory, ignore_errors=True)


def function_key_id(function_arn: str, role_arn: str) -> str:
    """The access key id that a function's calls are signed with; ministack derives it so."""
    return f"ASIA{hashlib.sha256(f'{function_arn}:{role_arn}'.encode()).hexdigest()[:16].upper()}"


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def local_client(service: str, url: str, *, account: str = ACCOUNT) -> Any:
    """A client for a local endpoint, which no configuration of this machine's user can lead elsewhere."""
    session = Session(session_vars={"profile": (None, [], None, None), "config_file": (None, [], os.devnull, None)})
    return session.create_client(
        service,
        region_name=REGION,
        endpoint_url=url,
        aws_access_key_id=account,
        aws_secret_access_key="rehearsal",  # noqa: S106
        config=Config(retries={"max_attempts": 0}, connect_timeout=5, read_timeout=120, proxies={}),
    )


def _last_lines(text: str, lines: int = 3) -> str:
    return " / ".join(text.strip().splitlines()[-lines:]) or "no output"
