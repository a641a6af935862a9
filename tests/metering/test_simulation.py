"""Whatever goes wrong, every billable unit is billed once, or known to be lost or in doubt."""

from __future__ import annotations

import pytest
from protected import Weakness
from seeded_bugs import BUGS, catches
from simulation import run_seed

SEEDS = 200
SEEDS_PER_BUG = 50


@pytest.mark.parametrize("first", range(0, SEEDS, 10))
def test_every_unit_is_billed_once_or_known_to_be_lost_or_in_doubt(first: int) -> None:
    assert [told for seed in range(first, first + 10) if (told := run_seed(seed))[1]] == []


@pytest.mark.protects(Weakness.UNDETECTED_ERRORS)
@pytest.mark.parametrize("bug", BUGS)
def test_the_simulator_notices_a_seeded_bug(bug: str) -> None:
    assert any(catches(bug, seed) for seed in range(SEEDS_PER_BUG))
