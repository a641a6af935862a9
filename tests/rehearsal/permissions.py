"""Every action of every deployed role, and the play that breaks without it: ``python tests/rehearsal/permissions.py``.

Takes each action away from its role in the local AWS, one at a time, plays, and gives it back. Prints a line for each;
exits with 1 where something did not break, or where nothing needs an action. ``--write`` writes docs/permissions.md
from the templates alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from permission_plays import EVENTS, MEMBER, METER, PLAN_TABLES, PLAYS, RECONCILIATION, Play

from marketplace_constructs.rehearsal.deployment import read_assembly, synthesize
from marketplace_constructs.rehearsal.errors import CouldNotRehearse
from marketplace_constructs.rehearsal.journey import patience
from marketplace_constructs.rehearsal.stage import Sale, Stage
from marketplace_constructs.runtime.settings import OnboardingSettings

ROOT = Path(__file__).parents[2]
APPS = (ROOT, Path(__file__).parent / "every_permission")
PAGE = ROOT / "docs" / "permissions.md"
NOBODY = "needed by nobody"
_PATIENCE_SECONDS = 3

NOT_SHOWN = (
    ("*", "logs:*", "Lambda itself writes the log; the local AWS writes it whatever the role says"),
    ("*", "xray:*", "Lambda's own daemon sends traces; the local AWS has none"),
    (EVENTS, "sqs:ReceiveMessage *", "Lambda reads the queue with the role; the local AWS reads it whatever it says"),
    (EVENTS, "sqs:DeleteMessage *", "as above"),
    (EVENTS, "sqs:GetQueueAttributes *", "as above"),
    (RECONCILIATION, "sqs:SendMessage *", "Lambda sends what failed with the role; the local AWS whatever it says"),
    (METER, "sqs:SendMessage *", "Lambda sends what failed with the role; the local AWS whatever it says"),
    (
        RECONCILIATION,
        f"apigateway:GET {MEMBER}",
        "asked only where another function puts a key into the plan between the reconciliation's look and its own try",
    ),
    (
        "AccessLogStream",
        "*",
        "Firehose is played: files are put where this role may put them (test_access_log), and no more is asked of it",
    ),
    (
        "*",
        "* AWS's own policy",
        "the example's own, not the library's: AWS's policy for writing logs, and nothing else",
    ),
)
"""Role, action with resource, and why it cannot be shown that something breaks without it."""

WILDCARDS = (
    ("aws-marketplace:*", "*", "AWS Marketplace's actions know no resources"),
    ("xray:*", "*", "X-Ray's actions know no resources"),
    ("apigateway:*", "/apikeys/*", "the ids of buyers' keys are made at run time; a function knows its own by name"),
    ("apigateway:*", MEMBER, "the ids of buyers' keys are made at run time; bounded by the sale's usage plans"),
    ("cloudtrail:LookupEvents", "*", "CloudTrail's event history knows no resources"),
    ("s3:*", "{AccessLogBucket}*", "objects are named by the hour of their delivery"),
    ("s3:*", "{MeterLedger}*", "manifests and attempts are named when they are written, and never deleted"),
    ("s3:*", "{PlansTables}/plan-tables/*", "a table is named by the digest of what it holds; the meter reads them"),
    ("s3:PutObject", PLAN_TABLES, "a table is named by the digest of what it holds; each is written once"),
)
"""Action, resource, and why it cannot be narrower."""


@dataclass(frozen=True, kw_only=True)
class Grant:
    """One action on one resource that a role of a stack may do; on the usage plans of all plans it is one.

    Args:
        role: Its logical id, without what is the same for all.
        resource: In short: a logical id, a path, ``*``.
        policy: Logical id of the role, name of its inline policy, number of the statement in it, and there the numbers
            of the resources.
    """

    stack: str
    role: str
    action: str
    resource: str
    policy: tuple[str, str, int, tuple[int, ...]]

    @property
    def name(self) -> str:
        return f"{self.action} {self.resource}"

    def __str__(self) -> str:
        return f"{self.stack:18} {self.role:31} {self.name:62}"


def short(logical_id: str) -> str:
    name = re.sub(r"[0-9A-F]{8}$", "", logical_id).removeprefix("Sale")
    return re.sub(r"^Plans[a-z].*Plan$", "UsagePlan", name)


def text_of(value: Any) -> str:
    """A resource of a policy, in short."""
    match value:
        case str():
            return re.sub(r"^arn:.*:", "", value)
        case {"Ref": "AWS::StackId"}:
            return "this stack"
        case {"Ref": name} | {"Fn::GetAtt": [name, *_]}:
            return short(name)
        case {"Fn::Join": [separator, parts]}:
            joined = separator.join(part if isinstance(part, str) else f"{{{text_of(part)}}}" for part in parts)
            return text_of(joined)
    raise ValueError(value)


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def grants_of(stack: str, template: Mapping[str, Any]) -> Iterator[Grant]:
    """Every action of every role, in the order of the template."""
    resources = template["Resources"]
    for logical_id, resource in resources.items():
        if resource["Type"] == "AWS::IAM::Role":
            for arn in resource["Properties"].get("ManagedPolicyArns", ()):
                managed = str(arn["Fn::Join"][1][-1]).rpartition("/")[2]
                yield Grant(
                    stack=stack,
                    role=short(logical_id).removesuffix("Role"),
                    action=managed,
                    resource="AWS's own policy",
                    policy=(logical_id, "", 0, (0,)),
                )
            policies = [(logical_id, policy) for policy in resource["Properties"].get("Policies", ())]
        elif resource["Type"] in {"AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"}:
            policies = [(role["Ref"], resource["Properties"]) for role in resource["Properties"]["Roles"]]
        else:
            continue
        for role, policy in policies:
            for number, statement in enumerate(policy["PolicyDocument"]["Statement"]):
                assert statement.keys() - {"Condition"} == {"Action", "Effect", "Resource"}, statement
                targets = [text_of(target) for target in listed(statement["Resource"])]
                for action in listed(statement["Action"]):
                    for target in dict.fromkeys(targets):
                        yield Grant(
                            stack=stack,
                            role=short(role).removesuffix("Role"),
                            action=action,
                            resource=target,
                            policy=(
                                role,
                                policy["PolicyName"],
                                number,
                                tuple(place for place, other in enumerate(targets) if other == target),
                            ),
                        )


def reason_for(grant: Grant) -> str:
    """Why it cannot be shown that something breaks without it; empty where nothing says so."""
    return next(
        (
            reason
            for role, name, reason in NOT_SHOWN
            if fnmatchcase(grant.role, role) and fnmatchcase(grant.name, name.replace("/*", "/[*]"))
        ),
        "",
    )


def play_for(grant: Grant, settings: OnboardingSettings) -> Play | None:
    return next((p for p in PLAYS if p.fits(settings) and grant.name in p.needs.get(grant.role, ())), None)


@contextmanager
def taken_away(stage: Stage, sale: Sale, grant: Grant) -> Iterator[None]:
    """The deployed role lacks this one action on this one resource."""
    iam = stage.aws.client("iam")
    logical_id, policy, number, places = grant.policy
    role = sale.stack.physical_ids[logical_id]
    before = iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]
    after = copy.deepcopy(before)
    statement = after["Statement"].pop(number)
    actions, resources = listed(statement["Action"]), listed(statement["Resource"])
    assert grant.action in actions
    for kept_actions, kept_resources in (
        ([action for action in actions if action != grant.action], resources),
        ([grant.action], [resource for index, resource in enumerate(resources) if index not in places]),
    ):
        if kept_actions and kept_resources:
            after["Statement"].append({**statement, "Action": kept_actions, "Resource": kept_resources})
    iam.put_role_policy(RoleName=role, PolicyName=policy, PolicyDocument=json.dumps(after))
    try:
        yield
    finally:
        iam.put_role_policy(RoleName=role, PolicyName=policy, PolicyDocument=json.dumps(before))
        # What could not be handled would come again, at a time of its own.
        for url in sale.stack.of_type("AWS::SQS::Queue").values():
            stage.aws.client("sqs").purge_queue(QueueUrl=url)


@dataclass(frozen=True, kw_only=True)
class Line:
    """What was found out about one grant."""

    grant: Grant
    word: str
    why: str

    @property
    def is_right(self) -> bool:
        return not self.word.isupper()

    def __str__(self) -> str:
        return f"{self.word:9} {self.grant} {self.why[:160]}"


def examine(stage: Stage, sale: Sale, play: Play, grants: Sequence[Grant]) -> list[Line]:
    """Play with all actions, then without each of them, then with all again."""

    def all_wrong(when: str) -> list[Line]:
        return [Line(grant=grant, word="NOT SEEN", why=f"{play.name} breaks {when}: {broken}") for grant in grants]

    if broken := play.breaks(stage, sale):
        return all_wrong("anyway")
    found = []
    for grant in grants:
        with taken_away(stage, sale, grant), patience(_PATIENCE_SECONDS):
            broken = play.breaks(stage, sale)
        word, why = ("seen", broken) if broken else ("NOT SEEN", "does not break without it")
        found.append(Line(grant=grant, word=word, why=f"{play.name}: {why}"))
    if broken := play.breaks(stage, sale):
        return all_wrong("after the actions were given back")
    return found


def examine_all(stage: Stage, known: set[tuple[object, ...]], only: str = "") -> Iterator[Line]:
    """A line for each grant of the stage's sales; those that another of the kind has, once."""
    for sale in stage.sales:
        by_play: dict[str, list[Grant]] = {}
        for grant in grants_of(sale.stack.name, sale.stack.template):
            play = play_for(grant, sale.settings)
            place = (sale.terms.is_legacy, grant.role, grant.name, play and play.name)
            if place in known or only not in str(grant):
                continue
            known.add(place)
            if play is not None:
                by_play.setdefault(play.name, []).append(grant)
            elif reason := reason_for(grant):
                yield Line(grant=grant, word="not shown", why=reason)
            else:
                yield Line(grant=grant, word="NOBODY", why=NOBODY)
        for play in PLAYS:
            yield from examine(stage, sale, play, by_play[play.name]) if play.name in by_play else ()


def templates() -> dict[str, Mapping[str, Any]]:
    """Every stack of every app, by name."""
    return {stack.name: stack.template for app in APPS for stack in read_assembly(synthesize(app))}


def settings_of(template: Mapping[str, Any]) -> OnboardingSettings:
    """What the onboarding function of a template is told."""
    functions = [r["Properties"] for r in template["Resources"].values() if r["Type"] == "AWS::Lambda::Function"]
    onboarding = next(f for f in functions if f["Handler"].endswith(".onboarding.handler.handler"))
    variables = onboarding["Environment"]["Variables"]
    return OnboardingSettings.from_environment({name: str(value) for name, value in variables.items()})


def rows(stacks: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str, str, str], list[str]]:
    """Role, action, resource and what is said of it, each with the stacks that have it."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for stack, template in stacks.items():
        settings = settings_of(template)
        for grant in grants_of(stack, template):
            play = play_for(grant, settings)
            said = f"**{play.name}**" if play else reason_for(grant) or NOBODY
            found.setdefault((grant.role, grant.action, grant.resource, said), []).append(stack)
    return found


def wildcard_reason(action: str, resource: str) -> str | None:
    return next(
        (
            why
            for name, place, why in WILDCARDS
            if fnmatchcase(action, name) and fnmatchcase(resource, place.replace("/*", "/[*]"))
        ),
        None,
    )


def page(stacks: Mapping[str, Mapping[str, Any]]) -> str:
    """docs/permissions.md."""
    found = rows(stacks)
    lines = [PREAMBLE, "## Every action of every role", "", "| Role | Action | Resource | In | Breaks without it |"]
    lines.append("|---|---|---|---|---|")
    lines += [
        f"| {role} | `{action}` | `{resource}` | {where(names, stacks)} | {said} |"
        for (role, action, resource, said), names in sorted(found.items())
    ]
    lines += ["", "## The plays", "", "| Play | What happens in it |", "|---|---|"]
    lines += [f"| **{play.name}** | {play.title} |" for play in PLAYS]
    lines += ["", "## Resources with a `*`", "", "| Actions | Resource | Why no narrower |", "|---|---|---|"]
    lines += [f"| `{action}` | `{resource}` | {why} |" for action, resource, why in WILDCARDS]
    return "\n".join(lines) + "\n"


def where(names: Sequence[str], stacks: Mapping[str, object]) -> str:
    return "all" if len(names) == len(stacks) else ", ".join(names)


PREAMBLE = """# Permissions: what each role may do, and what breaks when it may not

The rehearsal enforces the deployed roles. `python tests/rehearsal/permissions.py` takes away every action of every
role, one at a time, from the role that is deployed in the local AWS, and plays a short scenario that must break then,
and that must be kept before and after. It prints a line for each action, and exits with 1 where nothing breaks or
nobody needs the action. A sample of it runs with the tests, and holds this page to the templates.

`LegacySale` and `ConcurrentSale` are the example's stacks. The latter is sold by documents: there `{UsagePlan}` stands
for the usage plan of each plan, and the action is taken away on all of them together. `LegacyContract` and
`ConcurrentContract` sell contracts and have a sender of mails, for the actions that come with these
(tests/rehearsal/every_permission). Where a line says why instead of a play, the local AWS cannot show it. The rule,
role and policy of a `SubscriptionRelayStack` exist only outside us-east-1, where no stack is rehearsed;
tests/infrastructure asserts them. This page is made by
`python tests/rehearsal/permissions.py --write`.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="lines that have this text")
    parser.add_argument("--write", action="store_true", help="write docs/permissions.md, and do nothing else")
    arguments = parser.parse_args()
    if arguments.write:
        PAGE.write_text(page(templates()))
        return 0
    known: set[tuple[object, ...]] = set()
    wrong = 0
    try:
        for app in APPS:
            with Stage(app) as stage:
                for line in examine_all(stage, known, arguments.only):
                    wrong += not line.is_right
                    print(line, flush=True)  # noqa: T201  # the table that was asked for
    except CouldNotRehearse as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 3
    print(f"{len(known)} actions, {wrong} of them not as they should be")  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
