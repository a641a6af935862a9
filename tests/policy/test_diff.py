from __future__ import annotations

from copy import deepcopy
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from bills import Bill, Line, random_items
from examples import IMAGES_ROUTES, NOUNS_ROUTES, Documents, images, nouns, read
from hypothesis import given, settings
from hypothesis import strategies as st

from marketplace_constructs.domain.errors import MarketplaceConstructsError
from marketplace_constructs.domain.finding import FindingType
from marketplace_constructs.policy.charges import Direction
from marketplace_constructs.policy.comparison import Change, Comparison
from marketplace_constructs.policy.diff import Difference, allowable, diff, move
from marketplace_constructs.policy.patterns import Route
from marketplace_constructs.policy.pool import Pool, content_digest

RENDER = "POST /v1/images/{id}/render"
RETAIL = "image-retail@2"
CONSUMPTION = "policies/consumption.json"
ANY_CALL, RENDER_CALLS, BYTES_OUT, COMPUTE, STORED, PACE = range(2, 8)


def compared(
    new: Documents, old: Documents | None = None, *, more_routes: tuple[Route, ...] = (), **options: Any
) -> Difference:
    routes = {"old_routes": IMAGES_ROUTES, "new_routes": (*IMAGES_ROUTES, *more_routes)}
    return diff(read(old or images()), read(new), **{**routes, **options})


def of(difference: Difference, old: str | None = RETAIL, new: str | None = RETAIL) -> Comparison:
    [found] = [one for one in difference.comparisons if (one.old, one.new) == (old, new)]
    return found


def only(changes: tuple[Change, ...], **members: object) -> Change:
    found = [c for c in changes if all(getattr(c, name) == value for name, value in members.items())]
    assert len(found) == 1, changes
    return found[0]


def quantity(documents: Documents, index: int, **members: object) -> Documents:
    documents[CONSUMPTION]["Statement"][index]["Quantity"] |= members
    return documents


@pytest.mark.parametrize(("make", "routes"), [(images, IMAGES_ROUTES), (nouns, NOUNS_ROUTES)])
def test_a_pool_does_not_differ_from_itself(make: Any, routes: tuple[Route, ...]) -> None:
    difference = diff(read(make()), read(make()), old_routes=routes, new_routes=routes)
    assert difference == Difference()
    assert not difference.has_charges


def test_a_heavier_weight_is_dearer_by_its_price() -> None:
    new = images()
    new[CONSUMPTION]["Parameters"]["RenderWeight"]["Default"] = 7
    comparison = of(compared(new))
    assert comparison.agreements == ("pinned", "new")
    assert comparison.targets == ("Default (Marketplace)",)
    assert comparison.changes == (
        Change(
            kind="count",
            dimension="calls",
            routes=(RENDER,),
            lines=(((200, 300), *[(0, 2**62)] * 3),),
            old="5 per request",
            new="7 per request",
            old_usd=Decimal("0.005"),
            new_usd=Decimal("0.007"),
            per="request",
            direction=Direction.DEARER,
        ),
    )
    [call] = comparison.calls
    assert (call.old_usd, call.new_usd) == (Decimal("0.0052"), Decimal("0.0072"))


def test_what_costs_nothing_is_told_and_passes() -> None:
    new = images()
    new[CONSUMPTION]["Parameters"]["RenderWeight"]["Default"] = 7
    internal = of(compared(new), "image-internal@1", "image-internal@1")
    assert only(internal.changes, dimension="calls").direction == Direction.SAME


@pytest.mark.parametrize(
    ("index", "members", "direction"),
    [
        (COMPUTE, {"RoundUpPerRequest": 200}, Direction.DEARER),
        (COMPUTE, {"RoundUpPerRequest": 50}, Direction.CHEAPER),
        (COMPUTE, {"RoundUpPerRequest": 150}, Direction.POSSIBLY_DEARER),
        (COMPUTE, {"RoundUpPerRequest": 1000, "Multiply": 0.9}, Direction.POSSIBLY_DEARER),
        (COMPUTE, {"RoundUpPerRequest": 50, "Multiply": 1.1}, Direction.POSSIBLY_DEARER),
        (COMPUTE, {"Metric": "response.ms"}, Direction.POSSIBLY_DEARER),
        (COMPUTE, {"Unit": "ms"}, Direction.DEARER),
        (COMPUTE, {"Unit": "min"}, Direction.CHEAPER),
        (BYTES_OUT, {"Unit": "GiB"}, Direction.CHEAPER),
        (BYTES_OUT, {"Unit": "MB"}, Direction.DEARER),
        (ANY_CALL, {"RoundUpPerRequest": 2}, Direction.DEARER),
        (ANY_CALL, {"RoundUpPerRequest": 2, "Multiply": 0.5}, None),
        (STORED, {"Multiply": 2}, Direction.DEARER),
        (STORED, {"Multiply": 0.5}, Direction.CHEAPER),
    ],
)
def test_which_way_a_quantity_moves(index: int, members: dict[str, object], direction: Direction | None) -> None:
    shown = [one for one in compared(quantity(images(), index, **members)).comparisons if one.new == RETAIL]
    assert [change.direction for one in shown for change in one.changes] == ([direction] if direction else [])


def test_only_the_lines_that_change_are_told() -> None:
    new = images()
    new["policies/partner.json"]["Statement"][2]["Condition"] = {"StringEquals": {"response:StatusClass": ["4"]}}
    changes = of(compared(new), "image-partner-gold@1", "image-partner-gold@1").changes
    assert [[box[0] for box in change.lines] for change in changes] == [[(400, 404), (405, 429), (430, 500)]]
    # A unit of calls costs nothing while it is included, but may be one beyond.
    assert changes[0].direction == Direction.DEARER


def test_a_newly_allowed_route_that_is_counted_is_a_charge() -> None:
    new = images()
    del new["policies/trial.json"]["Statement"][1]
    changes = of(compared(new), "image-trial@1", "image-trial@1").changes
    assert only(changes, kind="access").old == "refused"
    count = only(changes, kind="count")
    assert (count.old, count.new, count.direction) == ("refused", "1 per request", Direction.DEARER)


def test_a_newly_refused_route_is_no_charge() -> None:
    new = images()
    new["policies/basic.json"]["Statement"].append(
        {"Sid": "NoOriginal", "Effect": "Deny", "Action": "GET", "Resource": "/v1/images/{id}/original"}
    )
    difference = compared(new)
    assert not difference.has_charges
    assert only(of(difference, "image-basic@1", "image-basic@1").changes, kind="access").new == "refused"


def test_a_guardrail_reaches_every_plan_of_its_segment() -> None:
    new = images()
    new["policies/guardrail.json"]["Statement"][0]["Action"] = "*"
    changes = of(compared(new), "image-trial@1", "image-trial@1").changes
    assert {change.new for change in changes if change.kind == "access"} == {"refused"}


def test_a_new_version_leaves_pinned_agreements_alone() -> None:
    new = images()
    new["policies/consumption4.json"] = quantity(images(), ANY_CALL, Multiply=2)[CONSUMPTION] | {"PolicyVersion": 4}
    new["plans/retail3.json"] = images()["plans/retail.json"] | {
        "PlanVersion": 3,
        "Policies": ["image-consumption@4"],
    }
    difference = compared(new)
    [comparison] = difference.comparisons
    assert (comparison.old, comparison.new, comparison.agreements) == (RETAIL, "image-retail@3", ("new",))
    assert comparison.direction == Direction.DEARER
    [finding] = difference.findings
    assert (finding.issue_code, finding.document) == ("MON213", "plans/retail3.json")
    assert finding.finding_type == FindingType.REVENUE_WARNING


def test_an_edited_version_hits_pinned_agreements() -> None:
    old = read(images())
    name = "Policy image-consumption@3"
    recorded = {name: content_digest(old.policies["image-consumption@3"].source)}
    difference = diff(
        Pool(**{**old.__dict__, "published": recorded}),
        read(quantity(images(), ANY_CALL, Multiply=2)),
        old_routes=IMAGES_ROUTES,
        new_routes=IMAGES_ROUTES,
    )
    assert "pinned" in of(difference).agreements
    assert [(finding.issue_code, finding.document) for finding in difference.findings] == [("MON119", CONSUMPTION)]


def test_a_version_that_goes_leaves_its_agreements_undecided() -> None:
    new = images()
    new["plans/retail.json"]["PlanVersion"] = 3
    difference = compared(new)
    gone = of(difference, RETAIL, None)
    assert gone.agreements == ("pinned",)
    assert gone.direction == Direction.POSSIBLY_DEARER
    assert difference.has_charges


def test_an_agreement_falls_back_to_the_default_when_its_plan_is_no_longer_assigned() -> None:
    new = images()
    new["plans/basic.json"]["AssignTo"] = {"Accounts": ["123456789012"]}
    difference = compared(new)
    fallen = of(difference, "image-basic@1", RETAIL)
    assert fallen.targets == ("Account (111122223333)",)
    assert only(fallen.changes, kind="count", dimension="egress_gb").direction == Direction.DEARER
    assert of(difference, RETAIL, "image-basic@1").targets == ("Account (123456789012)",)


def test_a_version_that_is_assigned_to_others_is_compared_for_who_is_moved_to_it() -> None:
    new = images()
    new["plans/basic2.json"] = new["plans/basic.json"] | {
        "PlanVersion": 2,
        "AssignTo": {"Accounts": ["123456789012"]},
        "Policies": ["image-consumption@3"],
    }
    comparison = of(compared(new), "image-basic@1", "image-basic@2")
    assert (comparison.agreements, comparison.targets) == (("moved",), ())
    assert comparison.direction == Direction.DEARER


def test_a_plan_for_those_who_had_none_is_a_new_charge() -> None:
    old = images()
    del old["plans/retail.json"]
    old["plans/trial.json"].pop("Trial")
    new = images()
    new["plans/trial.json"].pop("Trial")
    comparison = of(compared(new, old), None, RETAIL)
    assert comparison.targets == ("Default (Marketplace)",)
    assert only(comparison.changes, kind="count", dimension="compute_sec").old == "no plan"
    assert comparison.direction == Direction.DEARER


def test_a_price_holds_from_its_date_for_everybody() -> None:
    new = images()
    later = deepcopy(new["prices/q4.json"]) | {"EffectiveFrom": "2027-01-01T00:00:00Z"}
    later["Prices"]["egress_gb"] = "0.1"
    new["prices/q1.json"] = later
    price = only(of(compared(new)).changes, kind="price")
    assert (price.dimension, price.old_usd, price.new_usd) == ("egress_gb", Decimal("0.09"), Decimal("0.1"))
    assert price.routes == ("GET /v1/images", "GET /v1/images/{id}", "GET /v1/images/{id}/original")
    assert [box[3] for box in price.lines] == [(1_798_761_600_000, 2**62)]
    assert price.direction == Direction.DEARER


def test_a_price_that_nothing_is_counted_for_is_no_charge() -> None:
    old, new = images(), images()
    old["prices/q4.json"]["Prices"]["calls_overage"] = "0.001"
    new["prices/q4.json"]["Prices"]["calls_overage"] = "0.002"
    difference = compared(new, old)
    assert not difference.has_charges
    assert only(of(difference).changes, kind="price").direction == Direction.SAME


@pytest.mark.parametrize("dimension", ["calls_overage", "calls_committed"])
def test_the_prices_of_a_contract_are_charges_although_no_call_counts_for_them(dimension: str) -> None:
    old, new = images(), images()
    old["prices/partner.json"]["Prices"][dimension] = "0.002"
    new["prices/partner.json"]["Prices"][dimension] = "0.003"
    changes = of(compared(new, old), "image-partner-gold@1", "image-partner-gold@1").changes
    assert only(changes, kind="price").direction == Direction.DEARER


def test_half_the_count_at_twice_the_price_is_the_same() -> None:
    new = quantity(images(), BYTES_OUT, Multiply=0.5)
    for name in ("image-2026q4", "zero"):
        file = next(f for f, document in new.items() if document["Id"] == name)
        new[file]["Prices"]["egress_gb"] = str(Decimal(new[file]["Prices"]["egress_gb"]) * 2)
    assert not compared(new).has_charges


@pytest.mark.parametrize("is_counted_less", [False, True])
def test_an_unknown_price_could_be_dearer(is_counted_less: bool) -> None:  # noqa: FBT001 - a parameter of the test
    new = quantity(images(), BYTES_OUT, Multiply=0.5) if is_counted_less else images()
    del new["prices/q4.json"]["Prices"]["egress_gb"]
    assert of(compared(new)).direction == Direction.POSSIBLY_DEARER


def test_a_price_that_was_unknown_could_be_dearer_now() -> None:
    old = images()
    del old["prices/q4.json"]["Prices"]["egress_gb"]
    assert only(of(compared(images(), old)).changes, kind="price").direction == Direction.POSSIBLY_DEARER


@pytest.mark.parametrize(
    ("price_list", "direction"), [("unpriced", Direction.CHEAPER), ("other", Direction.POSSIBLY_DEARER)]
)
def test_a_price_that_both_miss_is_the_same_in_one_list_only(price_list: str, direction: Direction) -> None:
    old = images()
    for name in ("unpriced", "other"):
        old[f"prices/{name}.json"] = deepcopy(old["prices/q4.json"]) | {"Id": name, "Prices": {}}
    old["plans/basic.json"]["PriceList"] = "unpriced"
    new = deepcopy(old)
    new["plans/basic.json"]["PriceList"] = price_list
    new["policies/basic.json"]["Statement"][1]["Quantity"]["Multiply"] = 0.5
    changes = of(compared(new, old), "image-basic@1", "image-basic@1").changes
    assert only(changes, kind="count").direction == direction


def test_a_price_that_only_events_are_counted_for_is_a_charge() -> None:
    new = images()
    new["prices/q4.json"]["Prices"]["storage_gb_hours"] = "0.0002"
    assert only(of(compared(new)).changes, kind="price").direction == Direction.DEARER


@pytest.mark.parametrize(
    ("changed", "direction"),
    [
        ({"Included": 900}, Direction.DEARER),
        ({"Included": 1100}, Direction.CHEAPER),
        ({"Included": 1100, "Period": "Day"}, Direction.POSSIBLY_DEARER),
        ({"Then": {"ReportAs": "calls"}}, Direction.POSSIBLY_DEARER),
        (None, Direction.DEARER),
    ],
)
def test_what_a_contract_includes(changed: dict[str, Any] | None, direction: Direction) -> None:
    new = images()
    if changed is None:
        del new["plans/trial.json"]["Allowances"]
    else:
        new["plans/trial.json"]["Allowances"][0] |= changed
    changes = of(compared(new), "image-trial@1", "image-trial@1").changes
    assert only(changes, subject="Allowances").direction == direction


@pytest.mark.parametrize(
    ("members", "direction"),
    [
        ({"Channel": "Direct"}, Direction.POSSIBLY_DEARER),
        ({"Channel": "Internal"}, Direction.CHEAPER),
        ({"EffectiveFrom": "2026-12-01T00:00:00Z"}, Direction.POSSIBLY_DEARER),
        ({"Quota": {"Limit": 10, "Period": "DAY"}}, Direction.SAME),
        ({"Throttle": {"RateLimit": 21, "BurstLimit": 40}}, Direction.SAME),
        ({"Trial": {"Source": "Own", "Days": 30, "Then": RETAIL}}, Direction.POSSIBLY_DEARER),
    ],
)
def test_what_no_table_shows(members: dict[str, Any], direction: Direction) -> None:
    new = images()
    new["plans/basic.json"] |= members
    [subject] = members
    changes = of(compared(new), "image-basic@1", "image-basic@1").changes
    assert only(changes, subject=subject).direction == direction


def test_what_was_reported_only_and_is_billed_now_is_dearer() -> None:
    old = images()
    old["plans/basic.json"]["Channel"] = "Internal"
    changes = of(compared(images(), old), "image-basic@1", "image-basic@1").changes
    assert only(changes, subject="Channel").direction == Direction.DEARER


def test_the_limit_of_a_route_is_told() -> None:
    new = images()
    new[CONSUMPTION]["Statement"][PACE]["Throttle"]["RateLimit"] = 4
    change = only(of(compared(new)).changes, kind="limit")
    assert (change.routes, change.old, change.new) == ((RENDER,), "5/s, burst 10", "4/s, burst 10")


@pytest.mark.parametrize(
    ("path", "value", "is_increase"),
    [
        (("Marketplace", "Metering"), "Native", True),
        (("Marketplace", "Dimensions", "calls", "Category"), "Units", True),
        (("Marketplace", "Dimensions", "new"), {"Category": "Units", "Unit": "Units", "Type": "Metered"}, False),
        (("Description",), "Images.", False),
    ],
)
def test_what_changes_about_the_product(path: tuple[str, ...], value: object, is_increase: bool) -> None:  # noqa: FBT001 - a parameter of the test
    new = images()
    part = new["product.json"]
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    if path[-1] == "new":
        value["Type"] = "ExternallyMetered"  # type: ignore[index]
    comparison = of(compared(new), "image-api", "image-api")
    assert comparison.direction.is_increase == is_increase


def test_a_new_route_that_a_wildcard_catches_is_found() -> None:
    difference = compared(images(), more_routes=(Route(path="/v1/images/{id}/video", method="GET"),))
    found = {(finding.document, finding.sid) for finding in difference.findings}
    assert {sid for document, sid in found if document == CONSUMPTION} == {"Sold", "AnyCall", "BytesOut"}
    assert {finding.issue_code for finding in difference.findings} == {"MON218"}
    assert only(of(difference).changes, kind="count", dimension="calls").old == "no such route"


def test_a_new_method_that_any_action_catches_is_found() -> None:
    old = images()
    exact = {"Sid": "Any", "Effect": "Allow", "Action": "*", "Resource": "/v1/other"}
    old["policies/basic.json"]["Statement"].append(exact)
    difference = compared(deepcopy(old), old, more_routes=(Route(path="/v1/other", method="PUT"),))
    assert [(finding.issue_code, finding.sid) for finding in difference.findings] == [("MON218", "Any")]


def test_a_new_route_that_is_named_is_no_finding() -> None:
    new = images()
    named = {"Action": "GET", "Resource": "/v1/video"}
    new["policies/basic.json"]["Statement"] += [
        {"Sid": "Video", "Effect": "Allow"} | named,
        {"Sid": "VideoCounts", "Effect": "Meter", "Dimension": "calls", "Quantity": {"Metric": "requests"}} | named,
    ]
    difference = compared(new, more_routes=(Route(path="/v1/video", method="GET"),))
    assert difference.findings == ()
    assert of(difference, "image-basic@1", "image-basic@1").direction == Direction.DEARER


def test_routes_with_the_same_change_stand_together() -> None:
    changes = of(compared(quantity(images(), ANY_CALL, Multiply=2))).changes
    count = only(changes, kind="count", dimension="calls")
    assert len(count.routes) == 5
    assert RENDER not in count.routes


def test_dimensions_that_count_alike_have_their_own_price() -> None:
    old = images()
    statements = old["policies/basic.json"]["Statement"]
    statements.append(statements[1] | {"Sid": "ReadsAgain", "Dimension": "compute_sec"})
    new = deepcopy(old)
    for statement in new["policies/basic.json"]["Statement"][1:]:
        statement["Quantity"]["Multiply"] = 2
    changes = of(compared(new, old), "image-basic@1", "image-basic@1").changes
    assert {change.dimension: change.new_usd for change in changes} == {
        "calls": Decimal("0.002"),
        "compute_sec": Decimal("0.0004"),
    }


def test_without_routes_what_can_be_told_is_told_and_the_rest_is_not_passed() -> None:
    new = quantity(images(), ANY_CALL, Multiply=2)
    new["prices/q4.json"]["Prices"]["egress_gb"] = "0.1"
    difference = compared(new, new_routes=None)
    assert len(difference.not_checked) == 1
    assert [document.name for document in difference.documents] == [
        "Policy image-consumption@3",
        "PriceList image-2026q4 from 2026-10-01T00:00:00Z",
    ]
    assert only(of(difference).changes, kind="price").direction == Direction.DEARER


@pytest.mark.parametrize(
    ("allow", "is_finding"),
    [(RETAIL, False), ("image-retail:egress_gb", False), ("image-retail:calls", True), ("image-basic@1", True)],
)
def test_what_is_allowed_is_no_finding(allow: str, is_finding: bool) -> None:  # noqa: FBT001 - a parameter of the test
    new = quantity(images(), BYTES_OUT, Multiply=2)
    assert allow in allowable(read(images()), read(new))
    difference = compared(new, allow=(allow,))
    assert of(difference).direction == Direction.DEARER
    assert difference.has_charges == is_finding


@pytest.mark.parametrize(
    ("file", "break_it", "part"),
    [
        (CONSUMPTION, lambda d: d.pop("Version"), "MON102"),
        (CONSUMPTION, lambda d: d["Statement"].append(d["Statement"][2] | {"Sid": "Again"}), "Again and AnyCall"),
        ("plans/retail.json", lambda d: d.update(Policies=["image-consumption@9"]), "image-consumption@9"),
        ("plans/basic.json", lambda d: d.update(AssignTo="Default"), "Default (Marketplace) of image-basic@1 and"),
    ],
)
def test_fails_when_a_pool_has_errors(file: str, break_it: Any, part: str) -> None:
    new = images()
    break_it(new[file])
    with pytest.raises(MarketplaceConstructsError) as error:
        compared(new)
    assert set(error.value.codes) == {"MP-DIFF-01"}
    assert part in str(error.value)
    assert "new pool" in str(error.value)
    assert "sellable lint" in str(error.value)


def test_a_move_is_compared_before_it_is_made() -> None:
    comparison = move(read(images()), old="image-basic@1", new=RETAIL, routes=IMAGES_ROUTES)
    assert (comparison.old, comparison.new, comparison.agreements) == ("image-basic@1", RETAIL, ("moved",))
    assert only(comparison.changes, kind="count", dimension="egress_gb").direction == Direction.DEARER


def test_fails_when_a_move_leads_to_an_unknown_plan() -> None:
    with pytest.raises(MarketplaceConstructsError, match=r"MP-DIFF-02: plan, got 'image-retail@3'.*image-retail@2"):
        move(read(images()), old=RETAIL, new="image-retail@3", routes=IMAGES_ROUTES)


CONDITIONS = st.sampled_from(
    [
        None,
        {"StringEquals": {"response:StatusClass": ["4"]}},
        {"NumericEquals": {"response:Status": [200, 404]}},
        {"NumericLessThan": {"response:Bytes": 1000}},
        {"NumericGreaterThanEquals": {"integration:LatencyMs": 100}, "NumericLessThan": {"response:Status": 400}},
        {"DateGreaterThanEquals": {"request:Time": "2027-03-01T00:00:00Z"}},
    ]
)
METERED = st.sampled_from(
    [("calls", "requests", None), ("egress_gb", "response.bytes", "GB"), ("compute_sec", "integration.ms", "s")]
)
RESOURCES = st.sampled_from(["/**", "/v1/images", "/v1/images/*", "/v1/images/{id}/render", "/v1/images/**"])


@st.composite
def statements(draw: st.DrawFn) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for index in range(draw(st.integers(1, 5))):
        effect = draw(st.sampled_from(["Allow", "Allow", "Deny", "Meter", "Meter", "Meter", "Exempt"]))
        statement: dict[str, Any] = {
            "Sid": f"S{index}",
            "Effect": effect,
            "Action": draw(st.sampled_from(["*", "GET", "POST"])),
            "Resource": draw(RESOURCES),
        }
        dimension, metric, unit = draw(METERED)
        if effect == "Meter":
            counted = {"Metric": metric, "Multiply": draw(st.sampled_from([0.5, 1, 2]))} | (
                {"Unit": unit} if unit else {}
            )
            step = draw(st.sampled_from([None, 1, 10, 25, 100]))
            statement |= {"Dimension": dimension, "Quantity": counted | ({"RoundUpPerRequest": step} if step else {})}
        if effect == "Exempt":
            statement["Dimension"] = draw(st.sampled_from([dimension, "*"]))
        if effect in {"Meter", "Exempt"} and (condition := draw(CONDITIONS)):
            statement["Condition"] = condition
        found.append(statement)
    return found


PRICES = st.fixed_dictionaries(
    {}, optional={n: st.sampled_from(["0", "0.1", "0.2"]) for n in ("calls", "egress_gb", "compute_sec")}
)


@st.composite
def pools(draw: st.DrawFn) -> Documents:
    documents = images()
    documents = {name: documents[name] for name in ("product.json", "plans/retail.json", "prices/q4.json", CONSUMPTION)}
    documents["product.json"]["Segments"] = {"retail": {}}
    documents[CONSUMPTION]["Statement"] = draw(statements())
    documents["prices/q4.json"]["Prices"] = draw(PRICES)
    if draw(st.booleans()):
        documents["prices/q1.json"] = documents["prices/q4.json"] | {
            "EffectiveFrom": "2027-04-01T00:00:00Z",
            "Prices": draw(PRICES),
        }
    return documents


@settings(max_examples=300, deadline=None)
@given(pools(), st.data())
def test_no_bill_rises_where_the_diff_tells_of_no_increase(old: Documents, data: st.DataObject) -> None:
    new = deepcopy(old)
    if data.draw(st.booleans()):
        new[CONSUMPTION]["Statement"] = data.draw(statements())
    else:
        # A small change leaves more to be equal.
        index = data.draw(st.integers(0, len(new[CONSUMPTION]["Statement"]) - 1))
        new[CONSUMPTION]["Statement"][index] = data.draw(statements())[0] | {"Sid": "Changed"}
    if data.draw(st.booleans()):
        new["prices/q4.json"]["Prices"] = data.draw(PRICES)
    try:
        difference = compared(new, old)
    except MarketplaceConstructsError:
        return
    changes = [change for one in difference.comparisons if one.new == RETAIL for change in one.changes]
    dearer = {
        (route, change.dimension) for change in changes if change.direction.is_increase for route in change.routes
    }
    was, now = (Bill(read(documents), RETAIL, IMAGES_ROUTES) for documents in (old, new))
    for item in random_items(IMAGES_ROUTES, (), seed=data.draw(st.integers(0, 99)), count=60):
        assert isinstance(item, Line)
        before = was.cost(item)
        for dimension, (amount, usd, _) in now.cost(item).items():
            old_amount, old_usd, _ = before.get(dimension, (Fraction(0), Fraction(0), None))
            if (item.route, dimension) not in dearer:
                assert usd is None or old_usd is None or usd <= old_usd
                # What has no price in both is measured by what it counts.
                assert usd is not None or amount <= old_amount
