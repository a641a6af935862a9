"""What the meter is compared with is right where nothing goes wrong, and both meter the same sale."""

from __future__ import annotations

from dataclasses import replace

import pytest
from aws_sample import ORDINARY, Sale, SaleMeteredByJob
from protected import Weakness
from simulation import Troubles


def test_where_nothing_goes_wrong_job_and_meter_bill_the_same() -> None:
    ours, job = Sale(1, Troubles()).bill(), SaleMeteredByJob(1, Troubles()).bill()
    assert ours.once == ours.units == job.once
    assert replace(ours, requests=0) == replace(job, requests=0)


@pytest.mark.protects(Weakness.FAILED_CALL_DROPS_USAGE)
@pytest.mark.protects(Weakness.UNPROCESSED_IS_DONE)
def test_what_the_job_loses_the_meter_bills() -> None:
    ours, job = Sale(1, ORDINARY, is_away=True).bill(), SaleMeteredByJob(1, ORDINARY, is_away=True).bill()
    assert ours.units == job.units
    assert (ours.again, ours.silent) == (0, 0)
    assert ours.once > 0.99 * ours.units
    assert job.silent > 0
    assert job.once + job.named + job.silent == job.units
    # Nine hours of 36, at least.
    assert job.once < 0.8 * job.units
