"""How much usage is lost: the meter beside an hourly job as AWS's sample has it, under the same faults.

Both meter the same sales (tests/metering/aws_sample.py says how, and what the job is spared): twelve buyers, 36 hours,
the same calls and the same Marketplace stand-in. Without faults both must bill every unit once, or the comparison would
be unfair. ``faults`` are throttling, server errors, errors of a whole batch, calls and replies that are lost, records
left to UnprocessedRecords or left out, at one call in ten; a process dies at one step in two hundred. Each seed draws
them from its own generator for either. A unit that is neither billed nor named as lost or in doubt is lost without a
word.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

from figures import show

# Before this folder, which has a simulation of its own.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "metering"))

from aws_sample import ORDINARY, Bill, Sale, SaleMeteredByJob
from simulation import Troubles

SCENARIOS = {
    "no faults": (Troubles(), False),
    "faults at 1 call in 10": (ORDINARY, False),
    "faults at 4 calls in 10": (replace(ORDINARY, call=0.4), False),
    "faults at 1 call in 10, AWS Marketplace away for 9 hours": (ORDINARY, True),
    "faults at 1 call in 10, the meter itself away for 9 hours": (replace(ORDINARY, outage=1.0), False),
}
METERS = {"meter": Sale, "hourly job as in AWS's sample": SaleMeteredByJob}


def show_bills(name: str, bills: list[Bill], *, aim: float | None) -> None:
    units = sum(bill.units for bill in bills)
    show(
        f"{name}: lost without a word",
        100 * sum(bill.silent for bill in bills) / units,
        "% of units",
        aim=aim,
        worst_seed=max(100 * bill.silent / bill.units for bill in bills),
        named_lost_or_in_doubt=100 * sum(bill.named for bill in bills) / units,
        billed_once=100 * sum(bill.once for bill in bills) / units,
        billed_again=100 * sum(bill.again for bill in bills) / units,
        units=units,
        seeds=len(bills),
        requests_answered=sum(bill.requests for bill in bills),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    for scenario, (troubles, is_away) in SCENARIOS.items():
        bills = {
            meter: [sale(seed, troubles, is_away=is_away).bill() for seed in seeds] for meter, sale in METERS.items()
        }
        ours, of_job = bills.values()
        if [bill.units for bill in ours] != [bill.units for bill in of_job]:
            sys.exit(f"{scenario}: the two did not meter the same sales")
        if scenario == "no faults" and any((bill.once, bill.again) != (bill.units, 0) for bill in ours + of_job):
            sys.exit(f"{scenario}: expected every unit billed once, got {bills}")
        for meter, found in bills.items():
            show_bills(f"{scenario}, {meter}", found, aim=0 if meter == "meter" else None)


if __name__ == "__main__":
    main()
