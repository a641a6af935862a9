"""``sellable meter``: what the ledger says was billed, lost or is in doubt, and a person's word on what is in doubt."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from marketplace_constructs.cli.group import common_options
from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem
from marketplace_constructs.domain.metering import LossReason, Manifest, Outcome, Record, Settlement

if TYPE_CHECKING:
    from marketplace_constructs.runtime.metering.ledger import Ledger
    from marketplace_constructs.runtime.metering.objects import Objects

_SCHEMA_VERSION: Final = 1


@click.group("meter")
@click.option(
    "--ledger",
    required=True,
    metavar="WHERE",
    help="s3://BUCKET/ledger/PRODUCT_CODE/REGION/, or a directory with a copy of it.",
)
@click.pass_context
def command(ctx: click.Context, *, ledger: str) -> None:
    """What was metered: the ledger of one product.

    Reads the ledger and changes nothing but by release, and that only with
    --yes. Account and Region are those of the AWS configuration.
    """
    ctx.obj = _Books(ledger)


@command.command("show")
@click.option("--agreement", metavar="ID", help="Of one agreement alone.")
@common_options
@click.pass_obj
def show(books: _Books, *, agreement: str | None, output: str) -> int:
    """Show what became of the usage: billed, open, lost, in doubt.

    Exits with 1 where something is in doubt.
    """
    rows = books.rows(agreement)
    if output == "json":
        _print_json(usage=rows)
    else:
        click.echo(f"{'AGREEMENT':34}{'DIMENSION':16}{'WHAT':26}QUANTITY")
        for row in rows:
            click.echo(f"{row['agreement']:34}{row['dimension']:16}{row['what']:26}{row['quantity']}")
    return int(any(row["what"] == Outcome.IN_DOUBT for row in rows))


@command.command("record")
@click.argument("record_id", metavar="RECORD")
@common_options
@click.pass_obj
def show_record(books: _Books, *, record_id: str, output: str) -> int:
    """Show one record: what it bills, and every attempt to send it."""
    record = books.record(record_id)
    attempts = [
        {"at": attempt.at.isoformat(), "answer": attempt.answer.status.value if attempt.answer else "none"}
        for attempt in books.ledger.attempts_of([record])[record.id]
    ]
    fate = books.fates.get(record.id)
    found: dict[str, object] = {
        "record": record.id,
        "agreement": record.series.agreement,
        "dimension": record.series.dimension,
        "timestamp": record.timestamp.isoformat(),
        "quantity": f"{record.quantity:f}",
        "hours": [{"hour": one.hour.isoformat(), "quantity": str(one.quantity)} for one in record.sources],
        "outcome": fate.outcome.value if fate else Outcome.OPEN.value,
        "attempts": attempts,
    }
    if output == "json":
        _print_json(**found)
    else:
        for name, value in found.items():
            click.echo(f"{name:12}{value if isinstance(value, str) else json.dumps(value)}")
    return int(found["outcome"] == Outcome.IN_DOUBT)


@command.command("replay")
@common_options
@click.pass_obj
def replay(books: _Books, *, output: str) -> int:
    """Fold the whole chain anew, and compare it with the meter's shortcuts.

    Exits with 1 where a snapshot says anything else than the chain.
    """
    from marketplace_constructs.domain.metering import LedgerState
    from marketplace_constructs.runtime.metering.codec import from_bytes, state_to_json

    state, wrong = LedgerState(), []
    for manifest in books.chain:
        state.apply(manifest)
        key = f"states/{manifest.sequence:012}.json"
        if (content := books.objects.get(key)) is not None:
            kept = from_bytes(content)
            if any(kept.get(name) != value for name, value in json.loads(json.dumps(state_to_json(state))).items()):
                wrong.append(key)
    if output == "json":
        _print_json(manifests=len(books.chain), wrong=wrong)
    else:
        click.echo(f"{len(books.chain)} manifests, an unbroken chain; {len(wrong)} wrong snapshots")
        for key in wrong:
            click.echo(f"{key} says something else than the chain; delete it")
    return int(bool(wrong))


@command.command("release")
@click.argument("record_id", metavar="RECORD")
@click.option(
    "--as",
    "outcome",
    required=True,
    type=click.Choice(["accepted", "lost"]),
    help="AWS bills it, or nobody does.",
)
@click.option("--yes", is_flag=True, help="Do it; else only say what would be done.")
@common_options
@click.pass_obj
def release(books: _Books, *, record_id: str, outcome: str, yes: bool, output: str) -> int:
    """Decide what became of a record in doubt.

    Look at the bill of that hour first: a record that is released as lost is
    never billed, one released as accepted is never sent again.
    """
    state = books.ledger.load()
    if record_id not in state.in_doubt:
        raise _refusal(
            "MP-CLI-41",
            f"record {record_id}, got one that is not in doubt; expected one of "
            f"{', '.join(sorted(state.in_doubt)) or 'none, since nothing is'}; look at sellable meter show",
        )
    settlement = Settlement(
        record=record_id,
        outcome=Outcome(outcome),
        reason=LossReason.RELEASED if outcome == Outcome.LOST else None,
    )
    manifest = Manifest(
        sequence=state.sequence + 1,
        previous=books.ledger.head,
        written_at=datetime.now(UTC),
        settlements=(settlement,),
    )
    if yes and not books.ledger.append(manifest):
        raise _refusal(
            "MP-CLI-42", f"record {record_id}, got another writer at the same time; expected to be first; do it again"
        )
    if output == "json":
        _print_json(record=record_id, outcome=outcome, done=yes)
    else:
        click.echo(f"{record_id}: {outcome}" if yes else f"{record_id} would be {outcome}; do it with --yes")
    return 0


@dataclass
class _Books:
    """One ledger, wherever it lies."""

    where: str

    @cached_property
    def objects(self) -> Objects:
        from marketplace_constructs.runtime.metering.objects import DirectoryObjects, S3Objects

        if self.where.startswith("s3://"):
            import boto3

            place = urlsplit(self.where)
            return S3Objects(boto3.client("s3"), place.netloc, f"{place.path.strip('/')}/")
        if not Path(self.where, "manifests").is_dir():
            raise _refusal(
                "MP-CLI-44",
                f"ledger, got {self.where!r} without manifests; expected a directory that has them, or "
                "s3://BUCKET/ledger/PRODUCT_CODE/REGION/; name the ledger's own folder",
            )
        return DirectoryObjects(Path(self.where))

    @cached_property
    def ledger(self) -> Ledger:
        import uuid

        from marketplace_constructs.runtime.metering.ledger import Ledger

        ledger = Ledger(self.objects, run=f"cli-{uuid.uuid4().hex}")
        ledger.load()
        return ledger

    @cached_property
    def chain(self) -> list[Manifest]:
        from marketplace_constructs.runtime.metering.codec import from_bytes, manifest_from_json

        keys = self.objects.keys("manifests/")
        return [manifest_from_json(from_bytes(self.objects.get(key) or b"{}")) for key in keys]

    @cached_property
    def fates(self) -> dict[str, Settlement]:
        """The last word on each record."""
        return {one.record: one for manifest in self.chain for one in manifest.settlements}

    def record(self, record_id: str) -> Record:
        """One record."""
        for manifest in self.chain:
            for record in manifest.records:
                if record.id == record_id:
                    return record
        raise _refusal("MP-CLI-43", f"record, got {record_id!r}; expected the id of one; look at sellable meter show")

    def rows(self, agreement: str | None) -> list[Mapping[str, str]]:
        """Quantities by agreement, dimension and what became of them."""
        sums: defaultdict[tuple[str, str, str], Fraction] = defaultdict(Fraction)
        for manifest in self.chain:
            for record in manifest.records:
                fate = self.fates.get(record.id)
                what = fate.outcome.value if fate else Outcome.OPEN.value
                if fate and fate.reason:
                    what = f"{what} ({fate.reason})"
                sums[record.series.agreement, record.series.dimension, what] += Fraction(record.quantity)
            for loss in manifest.losses:
                what = f"{Outcome.LOST} ({loss.reason})"
                sums[loss.series.agreement, loss.series.dimension, what] += loss.quantity
        return [
            {"agreement": a, "dimension": d, "what": what, "quantity": str(quantity)}
            for (a, d, what), quantity in sorted(sums.items())
            if agreement in {None, a}
        ]


def _refusal(code: str, what: str) -> MarketplaceConstructsError:
    return MarketplaceConstructsError(Problem(code, what))


def _print_json(**members: Any) -> None:
    click.echo(json.dumps({"schema_version": _SCHEMA_VERSION, **members}, indent=1))
