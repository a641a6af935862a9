"""Import and first call of each handler of the bundle, in turn with bare boto3, and the size of the bundle.

Each start is a fresh process, from the unzipped bundle with byte code. Bare boto3 makes the very clients that the
handler made and repeats the very calls, which a first run wrote down. AWS is a stub on loopback that answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from figures import Run, in_turn, median, median_ratio, run, show

STARTER = Path(__file__).with_name("start.py")
BUNDLE = "from marketplace_constructs.bundles import bundle_path; print(bundle_path('functions'))"
MB = 1_000_000
ANSWERS = {
    "DescribeSecret": {"VersionIdsToStages": {"version": ["AWSPENDING"]}},
    "GetItem": {},
    "GetSecretValue": {"ARN": "arn", "VersionId": "version", "SecretString": "x" * 64, "CreatedDate": 1.8e9},
    "PutItem": {},
    "Query": {"Items": [], "Count": 0, "ScannedCount": 0},
    "ResolveCustomer": {
        "ProductCode": "abc123",
        "CustomerAWSAccountId": "111122223333",
        "LicenseArn": "arn:aws:license-manager::123456789012:license:l-0123456789abcdef0123456789abcdef",
    },
    "Scan": {"Items": [], "Count": 0, "ScannedCount": 0},
}
"""By operation; API Gateway's calls are all answered by an empty usage plan, which is a list without items too."""


class Stub(BaseHTTPRequestHandler):
    """Answers as AWS would."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
        body = json.dumps(ANSWERS[operation] if operation else {"id": "plan", "item": []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--python", default=sys.executable, help="the interpreter to start; Lambda's is 3.13")
    arguments = parser.parse_args()
    zipped = Path(run([sys.executable, "-c", BUNDLE]).output.strip())
    python = run([arguments.python, "--version"]).output.strip()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as scratch:
        code = Path(scratch) / "code"
        zipfile.ZipFile(zipped).extractall(code)
        unzipped = sum(path.stat().st_size for path in code.rglob("*") if path.is_file())
        run([arguments.python, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(code)])
        show_size("zipped", zipped.stat().st_size, 50)
        show_size("unzipped", unzipped, 250)
        # Without the environment's own packages and what they hook into each start.
        start = [arguments.python, "-I", "-S", str(STARTER), str(code), f"http://127.0.0.1:{server.server_port}"]
        handlers = json.loads(run([*start, "list"]).output)
        for handler in handlers:
            calls = Path(scratch) / "calls.json"
            calls.write_text(last_line(run([*start, "record", handler])))
            compare(handler, [*start, "start", handler], [*start, "bare", str(calls)], arguments.pairs, python)
    server.shutdown()


def compare(handler: str, ours: list[str], bare: list[str], pairs: int, python: str) -> None:
    run(ours)
    run(bare)
    starts, bares = in_turn(lambda: run(ours), lambda: run(bare), pairs)
    timed, bare_timed = ([json.loads(last_line(done)) for done in runs] for runs in (starts, bares))
    milliseconds, bare_milliseconds = ([1000 * parts["total"] for parts in runs] for runs in (timed, bare_timed))
    show(
        f"cold start of {handler}",
        median(milliseconds),
        "ms",
        ratio=median_ratio(milliseconds, bare_milliseconds),
        of=f"bare boto3 with the same clients, calls and byte code, {median(bare_milliseconds):.0f} ms",
        aim=1.1,
        limit=f"{python}; Lambda runs 3.13",
        import_ms=median([1000 * parts["import"] for parts in timed]),
        # What the machine's other work disturbs less.
        cpu_ms=median([1000 * parts["cpu"] for parts in timed]),
        cpu_ratio=median_ratio([parts["cpu"] for parts in timed], [parts["cpu"] for parts in bare_timed]),
    )
    peaks = [start.peak_mb for start in bares]
    show(
        f"peak memory of {handler}",
        median([start.peak_mb for start in starts]),
        "MB",
        ratio=median_ratio([start.peak_mb for start in starts], peaks),
        of=f"bare boto3 as above, {median(peaks):.0f} MB",
    )


def show_size(state: str, size: int, limit_mb: int) -> None:
    show(
        f"bundle of the functions, {state}",
        size / MB,
        "MB",
        ratio=size / MB / limit_mb,
        of=f"Lambda's limit, {limit_mb} MB",
        limit="Lambda developer guide, quotas: 50 MB zipped where it is uploaded at once, 250 MB unzipped",
    )


def last_line(done: Run) -> str:
    # Before it, functions write their logs and metrics.
    return done.output.strip().splitlines()[-1]


if __name__ == "__main__":
    main()
