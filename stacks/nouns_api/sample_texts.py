"""Texts to try the search on, written for this API and part of its contract."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Sample:
    """A text shipped with the API; `sample_id` has lower-case letters and hyphens only."""

    sample_id: str
    title: str
    text: str


SAMPLES: Final[Mapping[str, Sample]] = MappingProxyType(
    {
        sample.sample_id: sample
        for sample in (
            Sample(
                "concert",
                "A concert programme",
                "Tonight the orchestra plays Ludwig van Beethoven. Beethoven wrote the overture in Vienna, "
                "and the quartet was first heard there. After the interval, Vienna's youngest choir sings. "
                "Doors open at seven.",
            ),
            Sample(
                "harbour",
                "News from a harbour",
                "The ferry to the Isle of Wight left Portsmouth at noon. Portsmouth was foggy, but the "
                "captain, Dr. Ada Pell, had seen worse in the Bay of Biscay. Fog is no friend, said "
                "Pell's mate.",
            ),
            Sample(
                "journey",
                "A letter about a journey",
                "Dear Mira,\n\nYesterday we reached New York City. I have never seen so many lights! New\n"
                "York City sleeps less than Lisbon. On Tuesday we take the train to Boston.\n\n"
                "Yours,\nJ. R. Lund",
            ),
        )
    }
)
