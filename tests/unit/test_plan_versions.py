"""What holds from which hour on: hours that are over keep their table, and what was withdrawn in time never holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketplace_constructs.domain.plan_versions import (
    HOUR,
    LEAD,
    Assignment,
    PlanVersion,
    deployed,
    due_versions,
    holding,
    hour_of,
    plan_at,
)

NOON = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)


def plan(digest: str, name: str = "retail@1", **members: str) -> PlanVersion:
    return PlanVersion(
        plan=name,
        holds_from=datetime.min.replace(tzinfo=UTC),
        digest=digest,
        usage_plan_id=members.get("usage_plan_id", f"plan-of-{name}"),
        assign_to=members.get("assign_to", '"Default"'),
    )


def deploy(
    known: tuple[PlanVersion, ...], now: datetime, *plans: PlanVersion, earliest: datetime | None = None
) -> tuple[PlanVersion, ...]:
    return known + due_versions(known, [(version, earliest) for version in plans], now=now)


def digest_at(known: tuple[PlanVersion, ...], at: datetime, name: str = "retail@1") -> str | None:
    version = holding(known, at).get(name)
    return version.digest if version else None


def test_the_first_version_of_a_plan_holds_from_the_hour_that_has_begun() -> None:
    known = deploy((), NOON + timedelta(minutes=59, seconds=59), plan("a"))
    assert [(version.holds_from, version.number) for version in known] == [(NOON, 1)]


@pytest.mark.parametrize(("minutes", "hours"), [(0, 1), (30, 1), (55, 1), (55.001, 2), (59.9, 2)], ids=str)
def test_a_change_holds_from_the_next_whole_hour_that_is_five_minutes_away(minutes: float, hours: int) -> None:
    known = deploy((), NOON - HOUR, plan("a"))
    known = deploy(known, NOON + timedelta(minutes=minutes), plan("b"))
    assert known[-1].holds_from == NOON + hours * HOUR
    assert digest_at(known, NOON + hours * HOUR - timedelta(microseconds=1)) == "a"
    assert digest_at(known, NOON + hours * HOUR) == "b"


@pytest.mark.parametrize("change", [{"usage_plan_id": "other"}, {"assign_to": '{"Accounts":["111122223333"]}'}])
def test_a_change_of_usage_plan_or_assignment_is_one(change: dict[str, str]) -> None:
    known = deploy((), NOON, plan("a"))
    assert deploy(known, NOON, plan("a")) == known
    assert len(deploy(known, NOON, plan("a", **change))) == 2


def test_a_plan_holds_from_the_hour_that_its_document_names() -> None:
    new_year = datetime(2027, 1, 1, tzinfo=UTC)
    known = deploy((), NOON, plan("a"), earliest=new_year)
    assert digest_at(known, new_year - timedelta(seconds=1)) is None
    assert digest_at(known, new_year) == "a"
    # An hour that is over by then is of no account.
    assert deploy(known, new_year + HOUR, plan("b"), earliest=new_year)[-1].holds_from == new_year + 2 * HOUR


def test_a_usage_plan_that_was_replaced_is_replaced_at_once() -> None:
    known = deploy((), NOON - HOUR, plan("a"))
    known = deploy(known, NOON, plan("b", usage_plan_id="anew"))
    found = deployed(known, NOON)["retail@1"]
    assert (found.digest, found.usage_plan_id) == ("a", "anew")
    assert deployed(known, NOON - 2 * HOUR) == {}


def test_of_two_deployments_within_an_hour_the_later_holds() -> None:
    known = deploy((), NOON - HOUR, plan("a"))
    known = deploy(known, NOON + timedelta(minutes=10), plan("b"))
    known = deploy(known, NOON + timedelta(minutes=20), plan("c"))
    assert [digest_at(known, NOON + hours * HOUR) for hours in (0, 1, 2)] == ["a", "c", "c"]


def test_a_deployment_that_is_rolled_back_in_time_never_holds() -> None:
    known = deploy((), NOON - HOUR, plan("a"))
    known = deploy(known, NOON + timedelta(minutes=10), plan("b"))
    known = deploy(known, NOON + timedelta(minutes=20), plan("a"))
    assert {digest_at(known, NOON + hours * HOUR) for hours in range(9)} == {"a"}


def test_a_later_rollback_leaves_the_hours_that_are_over() -> None:
    known = deploy((), NOON - HOUR, plan("a"))
    known = deploy(known, NOON, plan("b"))
    known = deploy(known, NOON + 3 * HOUR, plan("a"))
    assert [digest_at(known, NOON + hours * HOUR) for hours in range(6)] == ["a", "b", "b", "b", "a", "a"]


def test_what_was_announced_for_later_gives_way_to_a_later_deployment() -> None:
    new_year = datetime(2027, 1, 1, tzinfo=UTC)
    known = deploy((), NOON - HOUR, plan("a"))
    known = deploy(known, NOON, plan("b"), earliest=new_year)
    known = deploy(known, NOON + HOUR, plan("a"))
    assert {digest_at(known, NOON), digest_at(known, new_year), digest_at(known, new_year + HOUR)} == {"a"}


def test_a_deployment_does_not_wait_for_what_was_announced_for_later() -> None:
    new_year = datetime(2027, 1, 1, tzinfo=UTC)
    known = deploy((), NOON - HOUR, plan("a"))
    known = deploy(known, NOON, plan("b"), earliest=new_year)
    known = deploy(known, NOON + HOUR, plan("c"))
    assert [digest_at(known, at) for at in (NOON + HOUR, NOON + 2 * HOUR, new_year)] == ["a", "c", "c"]
    # What was announced may also come sooner.
    known = deploy(known, NOON + 2 * HOUR, plan("d"), earliest=new_year)
    known = deploy(known, NOON + 3 * HOUR, plan("d"))
    assert [digest_at(known, at) for at in (NOON + 3 * HOUR, NOON + 4 * HOUR, new_year)] == ["c", "d", "d"]


def test_what_was_announced_is_withdrawn_by_whatever_is_deployed_after_it() -> None:
    known = deploy((), NOON - HOUR, plan("a"))
    known = deploy(known, NOON, plan("b"), earliest=NOON + 10 * HOUR)
    known = deploy(known, NOON, plan("c"), earliest=NOON + 20 * HOUR)
    assert [digest_at(known, NOON + hours * HOUR) for hours in (9, 10, 19, 20)] == ["a", "a", "a", "c"]
    known = deploy(known, NOON + HOUR, plan("a"))
    assert {digest_at(known, NOON + hours * HOUR) for hours in range(30)} == {"a"}


def test_what_was_announced_can_be_put_off() -> None:
    known = deploy((), NOON - HOUR, plan("a"))
    known = deploy(known, NOON, plan("b"), earliest=NOON + 10 * HOUR)
    known = deploy(known, NOON + HOUR, plan("b"), earliest=NOON + 20 * HOUR)
    assert [digest_at(known, NOON + hours * HOUR) for hours in (10, 19, 20)] == ["a", "a", "b"]
    # What is in force cannot be put off, nor a plan that has nothing else to hold.
    known = deploy(known, NOON + 20 * HOUR, plan("b"), earliest=NOON + 30 * HOUR)
    assert digest_at(known, NOON + 21 * HOUR) == "b"
    new = deploy((), NOON, plan("a"), earliest=NOON + 10 * HOUR)
    assert deploy(new, NOON, plan("a"), earliest=NOON + 20 * HOUR) == new


def test_a_plan_that_leaves_the_stack_counts_as_before_and_not_as_was_announced() -> None:
    known = deploy((), NOON - HOUR, plan("a"), plan("s", "standard@1"))
    known += due_versions(known, [(plan("b"), NOON + 10 * HOUR), (plan("s", "standard@1"), None)], now=NOON)
    known = deploy(known, NOON + HOUR, plan("s", "standard@1"))
    assert {digest_at(known, NOON + hours * HOUR) for hours in range(30)} == {"a"}
    assert set(deployed(known, NOON + HOUR)) == {"standard@1"}


def test_a_plan_that_leaves_the_stack_still_says_what_its_hours_counted() -> None:
    known = deploy((), NOON, plan("a"), plan("s", "standard@1"))
    known = deploy(known, NOON, plan("s", "standard@1"))
    left = holding(known, NOON + HOUR)["retail@1"]
    assert (left.digest, left.assign_to) == ("a", "")
    assert deploy(known, NOON + HOUR, plan("s", "standard@1")) == known
    # It left at once, with its usage plan, whatever its table says until the hour is over.
    assert set(deployed(known, NOON)) == {"standard@1"}
    assert set(holding(known, NOON)) == {"retail@1", "standard@1"}
    again = deploy(known, NOON + HOUR, plan("a"), plan("s", "standard@1"))
    assert holding(again, NOON + 2 * HOUR)["retail@1"].assign_to == '"Default"'


deployments = st.lists(
    st.tuples(
        st.integers(1, 200),  # minutes since the one before
        st.dictionaries(st.sampled_from(["retail@1", "retail@2", "gold@1"]), st.sampled_from("abc"), max_size=3),
        st.one_of(st.none(), st.integers(-3, 30)),  # EffectiveFrom, in hours from then
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(deployments)
def test_no_deployment_changes_what_held_and_the_last_one_wins(
    story: list[tuple[int, dict[str, str], int | None]],
) -> None:
    known: tuple[PlanVersion, ...] = ()
    now = NOON
    for minutes, plans, hours in story:
        now += timedelta(minutes=minutes)
        earliest = None if hours is None else hour_of(now) + hours * HOUR
        before = known
        known = deploy(known, now, *(plan(digest, name) for name, digest in plans.items()), earliest=earliest)
        assert len({(v.plan, v.holds_from, v.number) for v in known}) == len(known)
        # The hour that has begun keeps all that held in it, and so does the next one where it is near.
        settled = hour_of(now) + (2 * HOUR if now > hour_of(now) + HOUR - LEAD else HOUR)
        at = NOON
        while at < settled:
            held = holding(before, at)
            assert {name: version for name, version in holding(known, at).items() if name in held} == held
            at += HOUR / 2
        far = holding(known, now + 100 * HOUR)
        # What holds in the last hour of these goes on until the deployment's own, whatever was announced before.
        before_it, coming = holding(known, settled - HOUR), max(settled, earliest or settled)
        waiting = [holding(known, at) for at in (settled + n * HOUR for n in range(40)) if at < coming]
        assert all(held[name].digest == before_it[name].digest for held in waiting for name in plans.keys() & before_it)
        # And from its hour on it holds without a break.
        from_then_on = [holding(known, coming + number * HOUR) for number in range(40)]
        assert all({name: held[name].digest for name in plans} == plans for held in [far, *from_then_on])
        assert all(version.assign_to == "" for name, version in far.items() if name not in plans)
        assert deploy(known, now, *(plan(digest, name) for name, digest in plans.items()), earliest=earliest) == known


def test_an_assignment_is_in_force_from_its_hour_on() -> None:
    given = (
        Assignment(plan="gold@1", takes_effect_at=NOON + HOUR),
        Assignment(plan="retail@1", takes_effect_at=NOON),
    )
    moments = (NOON - timedelta(seconds=1), NOON, NOON + HOUR - timedelta(microseconds=1), NOON + HOUR)
    assert [plan_at(given, moment) for moment in moments] == [None, "retail@1", "retail@1", "gold@1"]


def test_the_order_in_which_versions_are_read_does_not_matter() -> None:
    one = replace(plan("a"), holds_from=NOON)
    many = (one, replace(one, digest="b", number=2), replace(one, digest="c", number=10))
    assert holding(many, NOON) == holding(many[::-1], NOON) == {"retail@1": many[2]}
