"""``sellable simulate``: what it prints, for people and programs, and what it refuses."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from examples import Documents, images, nouns, read

from marketplace_constructs.cli import run
from marketplace_constructs.policy.evaluation import expand
from marketplace_constructs.policy.patterns import Route
from marketplace_constructs.policy.simulation import Request, simulate_request

RENDER = "/v1/images/{id}/render"
OPENAPI = {
    "openapi": "3.0.1",
    "info": {"title": "images", "version": "1"},
    "paths": {
        "/v1/images": {"get": {}},
        "/v1/images/{id}": {"get": {}},
        RENDER: {"post": {}},
        "/v1/health": {"get": {}},
    },
}
DAY = "2026-12-01T12:00:00Z"


def stored(directory: Path, documents: Documents) -> str:
    for name, document in documents.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
    return str(directory)


@pytest.fixture
def pool(tmp_path: Path) -> str:
    return stored(tmp_path / "pool", images())


def answered(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    assert run(["simulate", *arguments]) == code
    return capsys.readouterr()


def logged(number: int, **more: str) -> dict[str, str]:
    return {
        "requestTimeEpoch": "1796126400000",
        "extendedRequestId": f"id-{number}=",
        "httpMethod": "GET",
        "resourcePath": "/v1/images/{id}",
        "status": "200",
        "errorResponseType": "-",
        "responseLength": "300000000",
        "responseLatency": "20",
        "integrationLatency": "10",
        "agreement": "agmt-one",
        "plan": "image-retail@2",
    } | more


def losers(part: dict[str, Any]) -> dict[str, str]:
    return {loser["sid"]: loser["reason"] for loser in part["losers"]}


def test_a_call_is_decided_dimension_by_dimension(pool: str, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["--request", f"POST {RENDER}", "--status", "200", "--integration-ms", "1201", "--response-bytes", "9"]
    out, _ = answered(capsys, pool, "--plan", "image-retail", *call, "--time", DAY, "--format", "json")
    found = json.loads(out)
    assert (found["schema_version"], found["plan"], found["plan_version"]) == (1, "image-retail", 2)
    assert (found["access"]["state"], found["access"]["sid"]) == ("allowed", "Sold")
    calls, compute, egress = found["dimensions"]
    assert (calls["sid"], calls["state"], calls["quantity"], calls["price"]) == (
        "RenderIsFiveCalls", "billable", "5", "0.005",
    )  # fmt: skip
    assert losers(calls) == {"HealthIsFree": "does not match this route", "AnyCall": "less specific pattern"}
    assert (compute["sid"], compute["quantity"], compute["price"]) == ("ComputeTime", "1.3", "0.00026")
    assert (egress["state"], egress["sid"], egress["quantity"]) == ("unmetered", None, "0")
    assert losers(egress)["BytesOut"] == "does not name POST"
    assert found["price"] == "0.00526"


def test_a_call_without_time_has_no_price_before_the_list_begins(pool: str, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["--request", "GET /v1/images", "--time", "2026-09-01T00:00:00Z", "--format", "json"]
    found = json.loads(answered(capsys, pool, "--plan", "image-retail", *call)[0])
    assert found["price"] is None
    assert found["dimensions"][0]["quantity"] == "1"


def test_a_refused_call_says_who_denies_it(pool: str, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["--request", f"POST {RENDER}", "--format", "json"]
    found = json.loads(answered(capsys, pool, "--plan", "image-trial", *call)[0])
    access = found["access"]
    assert (access["state"], access["sid"], losers(access)["Sold"]) == ("refused", "NoRender", "denied by NoRender")
    assert [(d["state"], d["quantity"]) for d in found["dimensions"]] == [("refused", "0")]


def test_text_fits_sixty_columns(pool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.json"
    log.write_text("\n".join(json.dumps(logged(n, status=("200", "404")[n % 2])) for n in range(4)))
    texts = [
        answered(capsys, pool, "--plan", "image-retail", "--request", f"POST {RENDER}")[0],
        answered(capsys, pool, "--plan", "image-retail", "--log", str(log))[0],
    ]
    assert all(len(row) <= 60 for text in texts for row in text.splitlines())
    assert "not image-consumption@3/AnyCall: less specific" in texts[0]
    assert "calls: billable, 2 lines, quantity 2" in texts[1]
    assert "calls: failed, 2 lines, quantity 0" in texts[1]


def test_a_log_comes_to_totals(pool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    routes = tmp_path / "openapi.json"
    routes.write_text(json.dumps(OPENAPI))
    plain, packed = tmp_path / "plain.json", tmp_path / "packed"
    plain.write_text("".join(f"{json.dumps(line)}\n" for line in (logged(1), logged(2, plan="other@1"), logged(1))))
    rest = [logged(3, resourcePath="/v1/health"), logged(4, resourcePath="/v1/else"), logged(5, status="404")]
    packed.write_bytes(gzip.compress("".join(f"{json.dumps(line)}\n" for line in rest).encode() + b"broken\n"))
    command = [pool, "--plan", "image-retail@2", "--routes", str(routes), "--log", str(plain), str(packed)]
    out, err = answered(capsys, *command, "--format", "json")
    assert err == (
        "note: usage events image.storage.gb_hours left out, which image-retail@2 counts; a log shows calls\n"
    )
    found = json.loads(out)
    names = ("dimension", "policy", "sid", "state", "lines", "quantity")
    policy = "image-consumption@3"
    assert [tuple(total[name] for name in names) for total in found["totals"]] == [
        (None, None, None, "unmatched", 1, "0"),
        (None, None, None, "unmetered", 1, "0"),
        ("calls", None, None, "failed", 1, "0"),
        ("calls", policy, "AnyCall", "billable", 1, "1"),
        ("egress_gb", None, None, "failed", 1, "0"),
        ("egress_gb", policy, "BytesOut", "billable", 1, "0.3"),
    ]
    assert (found["schema_version"], found["plan"], found["skipped"]) == (1, "image-retail", 1)
    assert (found["duplicates"], found["unparsable"]) == (1, 1)
    assert found["price"] == "0.028"


def test_without_routes_a_log_shows_them_and_it_is_said(
    pool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.json"
    log.write_text(json.dumps(logged(1, resourcePath="/v1/else")))
    out, err = answered(capsys, pool, "--plan", "image-retail", "--log", str(log), "--format", "json")
    assert [total["state"] for total in json.loads(out)["totals"]] == ["refused"]
    assert "routes are those that the log shows" in err


def test_native_metering_is_a_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = stored(tmp_path / "pool", nouns())
    log = tmp_path / "log.json"
    statuses = {1: ("200", "-"), 2: ("404", "-"), 3: ("429", "THROTTLED")}
    log.write_text(
        "\n".join(
            json.dumps(logged(n, plan="nouns-retail@1", resourcePath="/v1/nouns", status=s, errorResponseType=e))
            for n, (s, e) in statuses.items()
        )
    )
    out, _ = answered(capsys, pool, "--plan", "nouns-retail", "--log", str(log), "--format", "json")
    native = json.loads(out)["native"]
    assert (native["calls_from"], native["calls_to"]) == (1, 2)
    text, _ = answered(capsys, pool, "--plan", "nouns-retail", "--log", str(log))
    assert "1 (successful) to 2 (all accepted)" in " ".join(text.split())


def test_the_highest_version_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = images()
    for version in (10, 9):
        documents[f"plans/retail{version}.json"] = documents["plans/retail.json"] | {"PlanVersion": version}
    pool = stored(tmp_path / "pool", documents)
    call = ["--request", "GET /v1/images", "--format", "json"]
    assert json.loads(answered(capsys, pool, "--plan", "image-retail", *call)[0])["plan_version"] == 10
    assert json.loads(answered(capsys, pool, "--plan", "image-retail@2", *call)[0])["plan_version"] == 2


def test_fails_when_a_document_has_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = images()
    documents["policies/consumption.json"]["Statement"][0]["Effect"] = "Permit"
    pool = stored(tmp_path / "pool", documents)
    out, err = answered(capsys, pool, "--plan", "image-retail", "--request", "GET /v1/images", code=3)
    assert out == ""
    assert "MP-SIM-02" in err
    assert f"sellable lint {pool}" in err


def test_fails_when_two_statements_tie(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = images()
    statements = documents["policies/consumption.json"]["Statement"]
    statements.append(statements[2] | {"Sid": "AnyCallAgain"})
    pool = stored(tmp_path / "pool", documents)
    _, err = answered(capsys, pool, "--plan", "image-retail", "--request", "GET /v1/images", code=3)
    assert "AnyCall and AnyCallAgain" in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--request", "GET /v1/images", "--log", "log.json"],
        ["--request", "GET v1/images"],
        ["--request", "FETCH /v1/images"],
        ["--request", "GET /v1/images?size=9"],
        ["--request", "GET /v1/images", "--status", "2000"],
        ["--request", "GET /v1/images", "--time", "2026-12-01T00:00:00"],
        ["--request", "GET /v1/images", "--api", "Api"],
        ["--request", "GET /v1/images", "log.json"],
    ],
)
def test_fails_when_called_wrongly(pool: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    answered(capsys, pool, "--plan", "image-retail", *arguments, code=2)
    answered(capsys, pool, "--plan", "image-retial", "--request", "GET /v1/images", code=2)


def test_fails_when_a_log_is_not_there(pool: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = answered(capsys, pool, "--plan", "image-retail", "--log", "nowhere*", code=3)
    assert "MP-SIM-01" in err


def test_fails_when_no_line_of_a_log_tells_of_a_call(
    pool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "wrong.log"
    log.write_text("not a call\n{}\n")
    out, err = answered(capsys, pool, "--plan", "image-retail", "--log", str(log), code=3)
    assert (out, "MP-SIM-04: log, got 2 lines" in err) == ("", True)
    log.write_text(f"{json.dumps(logged(1, plan='other@1'))}\nnot a call\n")
    answered(capsys, pool, "--plan", "image-retail", "--log", str(log))


def test_says_why_a_price_is_not_known(pool: str, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["--plan", "image-retail", "--request", "GET /v1/images", "--response-bytes", "9"]
    out, _ = answered(capsys, pool, *call, "--time", "2020-01-01T00:00:00Z")
    assert "price: unknown, since price list image-2026q4 holds from" in " ".join(out.split())
    documents = images()
    del documents["prices/q4.json"]["Prices"]["calls"]
    stored(Path(pool), documents)
    out, _ = answered(capsys, pool, *call, "--time", DAY)
    assert "price: unknown, since price list image-2026q4 has none for calls" in " ".join(out.split())


def test_a_call_that_counts_nothing_says_0(pool: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = answered(capsys, pool, "--plan", "image-retail", "--request", "GET /v1/images", "--time", DAY)
    assert "egress_gb: billable by image-consumption@3/BytesOut\n  quantity 0, price 0\n" in out


def test_a_route_that_is_not_there_is_not_judged(pool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    routes = tmp_path / "openapi.json"
    routes.write_text(json.dumps(OPENAPI))
    call = ["--request", "GET /v1/images/7", "--routes", str(routes)]
    out, _ = answered(capsys, pool, "--plan", "image-retail", *call)
    told = "GET /v1/images/7 under image-retail@2: unmatched, the routes do not have it; write the path as the API"
    assert " ".join(out.split()) == f"{told} declares it"


def test_each_way_to_lose_is_told() -> None:
    documents = images()
    consumption = documents["policies/consumption.json"]
    meter = {"Effect": "Meter", "Dimension": "calls", "Resource": "/v1/images", "Quantity": {"Metric": "requests"}}
    consumption["Statement"] += [
        meter | {"Sid": "ByMethod", "Action": "GET"},
        meter | {"Sid": "Keyed", "Action": "GET", "Condition": {"NumericLessThan": {"response:Bytes": 10}}},
        meter | {"Sid": "AnyMethod", "Action": "*"},
        meter | {"Sid": "Missing", "Action": "GET", "Condition": {"NumericEquals": {"response:Status": [404, 410]}}},
        meter | {"Sid": "Broken", "Action": "GET", "Condition": {"StringEquals": {"response:StatusClass": "5"}}},
        meter | {"Sid": "Elsewhere", "Action": "GET", "Condition": {"StringEquals": {"plan:Segment": "partner"}}},
    ]
    pool = read(documents)
    assert not pool.faults
    expansion = expand(pool, pool.plans["image-retail@2"].document, [Route(path="/v1/images", method="GET")])

    def told(**more: Any) -> tuple[str | None, dict[str, str]]:
        time = pool.price_lists["image-2026q4"][0].document.effective_from
        decision = simulate_request(expansion, Request(method="GET", path="/v1/images", time=time, **more))
        calls = decision.verdicts[0]
        return calls.sid, {loser.sid: loser.reason for loser in calls.losers}

    sid, reasons = told(response_bytes=5)
    assert sid == "Keyed"
    assert reasons["ByMethod"] == "fewer condition keys"
    assert reasons["AnyMethod"] == "method not named"
    assert reasons["AnyCall"] == "less specific pattern"
    assert reasons["Missing"] == "condition does not hold: response:Status = 200"
    assert reasons["Elsewhere"] == "deploy condition plan:Segment"
    assert reasons["RenderIsFiveCalls"] == "does not match this route"
    sid, reasons = told(response_bytes=50)
    assert (sid, reasons["Keyed"]) == ("ByMethod", "condition does not hold: response:Bytes = 50")
    sid, reasons = told(status=503)
    assert (sid, reasons["Broken"]) == (None, "server errors are not billed by this policy")
    assert reasons["ByMethod"] == "condition does not hold: response:StatusClass = 5"


def test_an_exempt_call_names_who_exempts_it(pool: str, capsys: pytest.CaptureFixture[str]) -> None:
    documents = images()
    free = {"Sid": "Free", "Effect": "Exempt", "Action": "GET", "Resource": "/v1/images", "Dimension": "calls"}
    documents["policies/consumption.json"]["Statement"].append(free)
    stored(Path(pool), documents)
    call = ["--request", "GET /v1/images", "--format", "json"]
    calls = json.loads(answered(capsys, pool, "--plan", "image-retail", *call)[0])["dimensions"][0]
    assert (calls["state"], calls["sid"], losers(calls)["AnyCall"]) == ("exempt", "Free", "exempt by Free")
