"""The command: its exit codes, what it prints where, and its help for whoever lacks something."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from marketplace_constructs.cli import run
from marketplace_constructs.cli.metered import MeteredSale
from marketplace_constructs.queries.access_log import FIELDS
from marketplace_constructs.rehearsal import scenarios
from marketplace_constructs.rehearsal import stage as stage_module
from marketplace_constructs.rehearsal.browser import Browser
from marketplace_constructs.rehearsal.journey import Promises, Scenario, require
from marketplace_constructs.rehearsal.marketplace import Agreement
from marketplace_constructs.rehearsal.scenarios import buy, leave, wait_until_drained
from marketplace_constructs.rehearsal.stage import SaleKind, Stage
from marketplace_constructs.rehearsal.visit import Visitor

APP = Path(__file__).parents[2]


def test_lists_every_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rehearse", "--list", "--format", "json"]) == 0

    listed = json.loads(capsys.readouterr().out)
    assert listed["schema_version"] == 1
    assert [scenario["name"] for scenario in listed["scenarios"]] == list(scenarios.SCENARIOS)


@pytest.mark.parametrize(
    "arguments",
    [["rehearse", "--scenario", "none"], ["none"], ["rehearse", "--none"], ["agreements", "list"]],
)
def test_exits_with_2_when_it_is_called_wrongly(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2

    assert "Usage: sellable" in capsys.readouterr().err


def test_exits_with_3_and_says_how_to_install_the_local_aws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "app.py").write_text(
        "import json, os, pathlib\n"
        "made = pathlib.Path(os.environ['CDK_OUTDIR'])\n"
        "made.mkdir()\n"
        "(made / 'manifest.json').write_text(json.dumps({'artifacts': {}}))\n"
    )
    monkeypatch.setenv("MARKETPLACE_CONSTRUCTS_CACHE", str(tmp_path / "cache"))

    assert run(["rehearse", "--app", str(tmp_path)]) == 3

    said = capsys.readouterr()
    assert "MP-REHEARSE-02" in said.err
    assert "run sellable rehearse --install" in said.err
    assert not said.out


def test_exits_with_3_and_shows_what_a_failing_app_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "app.py").write_text("raise SystemExit('MP-PLAN-03: limit, got 0')\n")
    monkeypatch.setenv("MARKETPLACE_CONSTRUCTS_CACHE", str(tmp_path / "cache"))

    assert run(["rehearse", "--app", str(tmp_path)]) == 3

    assert "MP-PLAN-03: limit, got 0" in capsys.readouterr().err


@pytest.mark.parametrize(("module", "extra"), [("click", "cli"), ("botocore", "cli")])
def test_names_the_extra_to_install_when_a_module_is_missing(module: str, extra: str) -> None:
    script = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from marketplace_constructs.cli import run\n"
        "sys.exit(run(['rehearse', '--list']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert done.returncode == 3
    assert f"pip install 'marketplace-constructs[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.rehearsal
def test_exits_with_1_and_says_which_promise_broke(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def play(_: Stage, promises: Promises) -> None:
        with promises.promise("the sky is green"):
            require(False, "it is blue")
        with promises.promise("this is never reached"):
            pass

    monkeypatch.setattr(stage_module, "Stage", lambda *_, **__: nullcontext(stage))
    monkeypatch.setitem(scenarios.SCENARIOS, "sky", Scenario(name="sky", title="the sky", play=play))

    assert run(["rehearse", "--scenario", "sky"]) == 1
    text = capsys.readouterr().out
    assert run(["rehearse", "--scenario", "sky", "--format", "json"]) == 1
    document = json.loads(capsys.readouterr().out)

    assert "broken in sky: the sky is green" in text
    assert "it is blue" in text
    assert "never reached" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "\x1b" not in text
    assert document["kept"] is False
    (step,) = document["scenarios"][0]["steps"]
    assert (step["promise"], step["broken"]) == ("the sky is green", "it is blue")
    assert document["left_out"]
    assert {phase["phase"] for phase in document["phases"]} >= {"synthesizing"}


@pytest.mark.rehearsal
def test_serves_until_it_is_told_to_stop() -> None:
    command = [sys.executable, "-c", "from marketplace_constructs.cli import main; main()"]
    arguments = ["rehearse", "--app", str(APP), "--serve", "--serve-for", "60"]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        served = json.loads(serving.stdout.readline())
        control = served["control_url"]
        concurrent = next(sale for sale in served["sales"] if sale["agreement_kind"] == "Concurrent")

        def ask(path: str, **body: str) -> dict[str, dict[str, str]]:
            request = urllib.request.Request(f"{control}{path}", json.dumps(body).encode(), method="POST")
            with urllib.request.urlopen(request) as answer:
                found: dict[str, dict[str, str]] = json.loads(answer.read())
                return found

        buyer = ask("/buyers")["buyer"]
        agreement = ask("/agreements", account_id=buyer["account_id"], product_code=concurrent["product_code"])[
            "agreement"
        ]
        form = ask(f"/agreements/{agreement['id']}/form")
        port = int(concurrent["fulfillment_url"].split("/")[2].rpartition(":")[2])
        page = Browser(port).post(str(form["action"]), form["fields"], cross_site=True)
        serving.send_signal(signal.SIGTERM)

        assert page.status == 200
        assert page.form_asking_for("email") is not None
        assert serving.wait(20) == 0
        assert serving.stdout.read() == ""
    assert served["schema_version"] == 1
    assert served["outputs"]["ConcurrentSale"]["QueueUrl"]


@pytest.fixture
def as_operator(stage: Stage, operate: Callable[[Stage], None]) -> Stage:
    """The operator's AWS configuration leads to the local AWS."""
    operate(stage)
    return stage


@pytest.mark.rehearsal
@pytest.mark.parametrize("kind", [SaleKind.NATIVE, SaleKind.PIPELINE])
def test_shows_agreements_with_facts_and_why(
    as_operator: Stage,
    kind: SaleKind,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sale = as_operator.sale(kind)
    buyer = Visitor(as_operator, sale, as_operator.market.add_buyer())
    promises = Promises()
    route = buy(promises, buyer)
    command = ["agreements", "--stack", sale.stack.name]

    assert run([*command, "list", "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)["agreements"]
    (agreement,) = [found for found in listed if found["buyer"] == buyer.identity]
    leave(promises, buyer, route)
    assert run([*command, "show", agreement["id"]]) == 0
    shown = capsys.readouterr().out
    assert run([*command, "list"]) == 0
    table = capsys.readouterr().out

    assert agreement["grants_access"] is True
    assert "access is refused: registered 20" in shown
    assert "cause" in shown
    assert "key-created" in shown
    assert buyer.key not in shown
    assert buyer.identity in table


@pytest.mark.rehearsal
def test_repairs_one_buyer(as_operator: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    sale = as_operator.sale(SaleKind.PIPELINE)
    buyer = Visitor(as_operator, sale, as_operator.market.add_buyer())
    route = buy(Promises(), buyer)
    assert buyer.agreement is not None
    as_operator.market.events.lose(times=2)
    as_operator.market.cancel(buyer.agreement)

    assert run(["agreements", "--stack", sale.stack.name, "repair", buyer.identity]) == 0

    assert "access refused" in capsys.readouterr().out
    buyer.call_until_refused(route, buyer.key)


@pytest.mark.rehearsal
def test_forgets_the_contact_of_a_chain_and_of_nobody_else(
    as_operator: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    sale = as_operator.sale(SaleKind.PIPELINE)
    buyer, other = (Visitor(as_operator, sale, as_operator.market.add_buyer()) for _ in range(2))
    first, theirs = (bought(each) for each in (buyer, other))
    as_operator.clock.advance(timedelta(days=1))
    buyer.agreement = as_operator.market.renew(first)
    command = ["agreements", "--stack", sale.stack.name, "forget"]

    def contacts() -> set[str]:
        items = as_operator.aws.client("dynamodb").scan(TableName=sale.settings.contacts_table)["Items"]
        return {str(item["agreement"]["S"]) for item in items}

    kept = {f"{buyer.identity}#{first.id}", f"{other.identity}#{theirs.id}"}
    assert contacts() >= kept
    wait_until_drained(as_operator, sale)
    # By the renewed agreement, which has no contact of its own.
    assert run([*command, buyer.agreement.id]) == 0
    said = capsys.readouterr().out

    assert f"{first.id}: contact deleted" in said
    assert contacts() & kept == {f"{other.identity}#{theirs.id}"}
    assert run([*command, first.id, "--format", "json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["deleted"] == []
    assert set(again["looked_at"]) == {first.id, buyer.agreement.id}


@pytest.mark.rehearsal
def test_closes_an_hour_by_the_deployed_function_and_explains_it(
    as_operator: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(MeteredSale, "now", staticmethod(as_operator.clock.now))
    sale = as_operator.sale(SaleKind.PIPELINE)
    agreement = bought(Visitor(as_operator, sale, as_operator.market.add_buyer()))
    now = as_operator.clock.now()
    line = dict.fromkeys(FIELDS, "-") | {
        "requestTimeEpoch": str(int(now.timestamp() * 1000)),
        "extendedRequestId": "a-call",
        "httpMethod": "GET",
        "resourcePath": "/v1/nouns/search",
        "status": "200",
        "agreement": agreement.id,
    }
    as_operator.aws.client("s3").put_object(
        Bucket=sale.stack.outputs["AccessLogBucket"],
        Key=f"access-log/{now:%Y/%m/%d/%H}/one",
        Body=json.dumps(line).encode(),
    )

    def said(*words: str) -> dict[str, Any]:
        assert run(["meter", "--stack", sale.stack.name, *words, "--format", "json"]) == 0
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return document

    as_operator.clock.advance(timedelta(minutes=80))
    meant = said("close")
    done = said("close", "--yes")
    explained = said("explain", agreement.id, "calls", f"{now:%Y-%m-%dT%H:00Z}", "--lines")

    assert done["closed"] == meant["closed"]
    assert [{**record, "record": None} for record in done["records"]] == meant["records"]
    (record,) = explained["records"]
    assert record["metering_record_id"] in {one.metering_record_id for one in as_operator.market.accepted_records}
    counted = [(one["id"], one["policy"], one["sid"]) for one in explained["lines"] if one["sid"] != "SamplesAreFree"]
    assert counted == [("a-call", "search@1", "EveryCall")]
    assert (explained["usage"], explained["billed"], explained["wrong"]) == ("1", "1", [])
    assert said("replay")["differences"] == []
    totals = said("show", "--agreement", agreement.id)["totals"]
    assert {"dimension": "calls", "what": "accepted", "quantity": "1"} in totals


def bought(buyer: Visitor) -> Agreement:
    """The agreement, once its buyer has left a contact address."""
    buy(Promises(), buyer)
    assert buyer.agreement is not None
    return buyer.agreement


@pytest.mark.rehearsal
@pytest.mark.parametrize(
    ("stack", "arguments", "code"),
    [
        ("LegacySale", ["show", "none"], "MP-CLI-12"),
        ("LegacySale", ["forget", "none"], "MP-CLI-12"),
        ("LegacySale", ["repair", "none"], "MP-CLI-12"),
        ("NoSuchStack", ["list"], "NoSuchStack"),
    ],
)
def test_exits_with_3_when_there_is_nothing_to_look_at(
    as_operator: Stage, stack: str, arguments: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["agreements", "--stack", stack, *arguments]) == 3

    said = capsys.readouterr().err
    assert code in said
    assert "Traceback" not in said
    assert as_operator
