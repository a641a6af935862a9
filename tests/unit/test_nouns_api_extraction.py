"""What the proper-noun search finds, and what holds for every text."""

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacks.nouns_api.proper_nouns import find_nouns

_PIECES = [
    *("Alice", "London", "Reading", "reading", "May", "York-based", "Alice's", "O\u2019Neill", "Don't"),
    *("van", "de", "of", "the", "The", "In", "I", "A", "J.", "R.", "U.S.", "Dr."),
    *("&", ".", "!", "?", ":", ",", "(", ")", '"', "'", "-", "\n", "\n\n", "\t"),
    *("é", "É", "e\u0301", "ǅ", "东京", "7", "_"),
]
texts = st.one_of(
    st.text(st.characters(exclude_categories=())),
    st.lists(st.sampled_from(_PIECES), max_size=40).map(" ".join),
    st.lists(st.sampled_from(_PIECES), max_size=40).map("".join),
)


def _names(text: str) -> list[str]:
    return [noun.text for noun in find_nouns(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("we saw New York City twice", ["New York City"], id="run"),
        pytest.param("a work by Ludwig van Beethoven", ["Ludwig van Beethoven"], id="particle"),
        pytest.param("at the Bank of England", ["Bank of England"], id="of"),
        pytest.param("gave Alice the London timetable", ["Alice", "London"], id="article-between"),
        pytest.param("read Alice's London map", ["Alice", "London"], id="possessive-between"),
        pytest.param("with J.R.R. Tolkien and A. A. Milne", ["J.R.R. Tolkien", "A. A. Milne"], id="initials"),
        pytest.param("made in the U.S. by hand", ["U.S."], id="dotted"),
        pytest.param("so Dr. Watson left", ["Dr. Watson"], id="title"),
        pytest.param("at Marks & Spencer with AT&T", ["Marks & Spencer"], id="ampersand"),
        pytest.param("near Alice's home and O\u2019Neill\u2019s", ["Alice", "O\u2019Neill"], id="possessive"),
        pytest.param("a York-based firm in Stratford-upon-Avon", ["York", "Stratford-upon-Avon"], id="hyphens"),
        pytest.param("he and I said I'm off, Don't!", [], id="pronoun-and-contraction"),
        pytest.param("in The Hague", ["Hague"], id="leading-article"),
        pytest.param("those US ships and us", ["US"], id="acronym"),
        pytest.param("in plan B and with Vitamin A", ["Vitamin A"], id="single-letter"),
        pytest.param("the café of José Núñez, Jose\u0301 too", ["José Núñez", "Jose\u0301"], id="accents"),
        pytest.param("", [], id="empty"),
        pytest.param("东京 و 123 🙂", [], id="no-capitals"),
    ],
)
def test_finds_names_within_a_sentence(text: str, expected: list[str]) -> None:
    assert _names(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("The rain fell. However, it stopped.", [], id="function-words"),
        pytest.param("Yesterday Alice left.", ["Alice"], id="opener-before-a-name"),
        pytest.param("Reading is fun. I like reading.", [], id="lower-case-elsewhere"),
        pytest.param("Reading is far. I like reading in Reading.", ["Reading"], id="both-elsewhere"),
        pytest.param("New York is big, not new.", ["New York"], id="adjective-of-a-name"),
        pytest.param("New ideas came.", [], id="adjective-alone"),
        pytest.param("Lake Como is a deep lake.", ["Lake Como"], id="common-word-of-a-name"),
        pytest.param("May came. We left in May.", ["May"], id="opener-that-is-a-name-elsewhere"),
        pytest.param('he said, "Come here"', [], id="after-a-quote"),
        pytest.param("shares of AT&T. Lisbon is far", ["Lisbon"], id="letter-that-is-no-initial"),
        pytest.param("by day\n\nOnce more", [], id="after-a-blank-line"),
        pytest.param("in Lisbon\u2029Paris is far", ["Lisbon", "Paris"], id="after-a-paragraph-separator"),
        pytest.param("an end in the U.S. Then it rained", ["U.S."], id="after-an-abbreviation"),
    ],
)
def test_weighs_the_capital_that_opens_a_sentence(text: str, expected: list[str]) -> None:
    assert _names(text) == expected


def test_only_the_position_at_a_sentence_start_makes_a_noun_not_confident() -> None:
    found = {noun.text: noun.confident for noun in find_nouns("Paris is big. Lisbon is far. I like Lisbon.")}
    assert found == {"Paris": False, "Lisbon": True}


def test_a_name_broken_over_two_lines_counts_as_the_same_noun() -> None:
    (noun,) = find_nouns("in New York and in New\r\n York")
    assert (noun.text, noun.count) == ("New York", 2)
    assert noun.occurrences[1] == (19, 29)


@given(texts)
def test_every_occurrence_slices_the_text_to_its_noun(text: str) -> None:
    for noun in find_nouns(text):
        for start, end in noun.occurrences:
            piece = text[start:end]
            assert " ".join(piece.split()) == noun.text
            assert piece == piece.strip()
            assert noun.text[0].isupper() or noun.text[0].istitle()


@given(texts)
def test_nouns_are_distinct_ordered_and_never_overlap(text: str) -> None:
    nouns = find_nouns(text)
    assert len({noun.text for noun in nouns}) == len(nouns)
    assert [noun.occurrences[0] for noun in nouns] == sorted(noun.occurrences[0] for noun in nouns)
    places = [place for noun in nouns for place in noun.occurrences]
    assert sum(noun.count for noun in nouns) == len(places)
    for noun in nouns:
        assert list(noun.occurrences) == sorted(noun.occurrences)
    ordered = sorted(places)
    assert all(before.end <= after.start for before, after in pairwise(ordered))


@given(texts)
def test_a_text_twice_as_two_paragraphs_has_each_noun_twice_as_often(text: str) -> None:
    once, twice = find_nouns(text), find_nouns(f"{text}\n\n{text}")
    shift = len(text) + 2
    assert [noun.text for noun in twice] == [noun.text for noun in once]
    for single, double in zip(once, twice, strict=True):
        moved = tuple((start + shift, end + shift) for start, end in single.occurrences)
        assert double.occurrences == single.occurrences + moved


@given(texts, st.text("0123456789 .,;!\n", max_size=20))
def test_a_paragraph_without_letters_changes_no_noun(text: str, tail: str) -> None:
    assert find_nouns(f"{text}\n\n{tail}") == find_nouns(text)


@given(texts, st.integers(min_value=0, max_value=5))
def test_white_space_in_front_only_shifts_the_offsets(text: str, width: int) -> None:
    shifted = find_nouns(" " * width + text)
    assert [(n.text, n.confident) for n in shifted] == [(n.text, n.confident) for n in find_nouns(text)]
    assert [start - width for n in shifted for start, _ in n.occurrences] == [
        start for n in find_nouns(text) for start, _ in n.occurrences
    ]


@pytest.mark.parametrize("unit", ["a-", "Ab, ", "Ab of the ", "A. ", "   \n", "A'"])
def test_time_grows_with_the_text_and_not_with_its_square(unit: str) -> None:
    def seconds(size: int) -> float:
        text = (unit * size)[:size]
        times = []
        for _ in range(3):
            started = time.process_time()
            find_nouns(text)
            times.append(time.process_time() - started)
        return min(times)

    # Eight times the text costs 8 times the work if linear, 64 if quadratic.
    assert seconds(80_000) < 24 * seconds(10_000) + 0.05
