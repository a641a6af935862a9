"""Proper nouns of an English text, found by capital letters and by the rest of the text.

A proper noun here is a run of capitalised words ("New York City"), with what may stand between two of them:
initials and titles ("J. R. Smith", "Dr. Watson"), one to three particles ("Ludwig van Beethoven",
"Bank of England") or an ampersand ("Marks & Spencer"). Possessive and contracted endings are left out
("Alice's" gives "Alice"), and so is a lower-case tail ("York-based" gives "York"). Articles, pronouns,
conjunctions and prepositions begin no noun ("The Hague" gives "Hague").

At the start of a sentence a capital proves nothing. Such a word is left out if it commonly opens sentences,
or if no capitalised word follows it and the text has it in lower case elsewhere, unless the text also has it
capitalised within a sentence. Without any evidence it is kept and the noun is marked as not confident.

Limits. There is no dictionary and no model: a common noun that opens a sentence and occurs once is kept
("Dogs bark."), headlines in Title Case or capitals look like long names, two names side by side are one
("sent Alice London newspapers"), a name that begins in lower case is missed or cut ("iPhone",
"al-Khwarizmi"), and so is the "I" of "Elizabeth I". Nothing is resolved: "Alice" and "Alice Liddell" are two
nouns. Languages that capitalise differently (German) or have no capitals (Chinese) are outside its reach: it
answers without an error, with every German noun or with none.

Time and memory are linear in the length of the text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

_LETTER: Final = r"[^\W_](?:[^\W_]|[\u0300-\u036f])*+"
# Possessive quantifiers keep the search linear. U+2019 is an apostrophe, U+2010 and U+2011 are hyphens.
_WORD: Final = re.compile(rf"{_LETTER}(?:['\u2019\-\u2010\u2011]{_LETTER})*+")
_CONTRACTED: Final = re.compile(r"(?:n['\u2019]t|['\u2019](?:s|m|d|re|ve|ll))\Z", re.IGNORECASE)
_HYPHEN: Final = re.compile(r"[\-\u2010\u2011]")
_OPENS_SENTENCE: Final = frozenset(".!?\u2026:\"'\u2018\u2019\u201c\u201d\u00ab\u00bb([\u2022*#")


def _word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_PARTICLES: Final = _word_set("al bin da das de del della der di dos du el ibn la le of ter the und van von y zu")
_MAX_PARTICLES: Final = 3
_TITLES: Final = _word_set("capt col dr fr ft gen gov hon lt messrs mr mrs ms mt prof rep rev sen sgt st")
_FUNCTION_WORDS: Final = _word_set(
    """
    a about above across after against all along although among an and another any anybody anyone anything
    are around as at be because been before behind below beneath beside between beyond both but by can could
    did do does during each either every everybody everyone everything few for from had has have he hence
    her here hers herself him himself his how however i if in inside into is it its itself less many me mine
    more most much must my myself near neither no nobody none nor nothing of off on onto or other our ours
    ourselves out outside over own per perhaps several shall she should since so some somebody someone
    something such than that the their theirs them themselves then there therefore these they this those
    though through throughout thus till tis to toward towards twas under unless until up upon us was we were
    what whatever when whenever where whereas wherever whether which whichever while who whoever whom whose
    why with within without would yet you your yours yourself yourselves
    """
)
_OPENERS: Final = _word_set(
    """
    actually afterwards again ago almost already also always answer apart ask call certainly clearly come
    consider dear despite earlier eight enough especially even eventually ever exactly fifth finally find
    five follow forget formerly fortunately four furthermore generally get give given go hello hi indeed
    instead just later leave let like likely look made make may maybe mean meanwhile meet might moreover
    nearly never nevertheless nine note nothing now obviously occasionally often on once one only
    originally otherwise part people please plus possibly presumably previously probably put quite rather
    read really recently regarding remember run say see send set seven similarly simply six sometimes soon
    still suddenly surely take tell ten thank thanks think three today together tomorrow tonight too try
    turn two unfortunately unlike use used usually very visit wait well whenever will wish yes yesterday
    """
)
_ADJECTIVES: Final = _word_set("first good great last new next old second third")
_COMMON: Final = _FUNCTION_WORDS | _OPENERS | _ADJECTIVES
# Written like this they are names, though their letters spell a function word.
_ACRONYMS: Final = frozenset({"IT", "US", "WHO"})


class Occurrence(NamedTuple):
    """One place where a noun stands; `text[start:end]` is the noun as the text has it.

    Offsets count Unicode code points from 0, `end` is exclusive. They are neither bytes nor UTF-16 units.
    """

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Noun:
    """A proper noun with every place where it stands, in reading order.

    Attributes:
        text: The noun with each run of white space as one blank, so that a name broken over two lines counts
            as the same noun; otherwise exactly as in the text, not normalised.
        confident: At least one occurrence stands where a common word would have no capital, or its first word
            does elsewhere. False means that only the position at the start of sentences speaks for it.
        occurrences: n >= 1 places, ascending, never overlapping with those of any noun of the same text.
    """

    text: str
    confident: bool
    occurrences: tuple[Occurrence, ...]

    @property
    def count(self) -> int:
        """How often the noun occurs, >= 1."""
        return len(self.occurrences)


class _Word(NamedTuple):
    start: int
    end: int
    key: str
    is_capital: bool
    is_initial: bool
    is_acronym: bool
    is_function: bool
    opens_sentence: bool
    joins_previous: bool


def find_nouns(text: str) -> list[Noun]:
    """Find the proper nouns of a text, in the order in which they first occur.

    Args:
        text: Any string, also empty, without letters, or with lone surrogates.
    """
    words = list(_words(text))
    seen_capital = {w.key for w in words if w.is_capital and not w.opens_sentence}
    seen_lower = {w.key for w in words if not w.is_capital}
    places: dict[str, list[Occurrence]] = {}
    confident: set[str] = set()
    for run in _runs(words):
        name = _trim(run, seen_capital, seen_lower)
        if not name:
            continue
        first, last = name[0], name[-1]
        end = last.end
        if len(name) > 1 and last.is_initial and text[last.start - 1] == ".":
            end += 1
        if end - first.start == 1:
            continue
        noun = " ".join(text[first.start : end].split())
        places.setdefault(noun, []).append(Occurrence(first.start, end))
        if not first.opens_sentence or first.is_acronym or first.is_initial or first.key in seen_capital:
            confident.add(noun)
    return [Noun(noun, noun in confident, tuple(found)) for noun, found in places.items()]


def _words(text: str) -> Iterator[_Word]:
    previous_end = 0
    previous: _Word | None = None
    was_cut = False
    for match in _WORD.finditer(text):
        start = match.start()
        core = _core(match.group())
        end = start + len(core)
        key = core.casefold()
        opens, joins = (True, False)
        if previous is not None:
            is_opener = key in _COMMON and not (len(core) == 1 and text[end : end + 1] == ".")
            opens, joins = _gap(text[previous_end:start], previous, before_opener=is_opener)
        joins = joins and not was_cut
        follows_name = joins and previous is not None and previous.is_capital
        is_initial = _is_initial(text, start, end, follows_name=follows_name)
        is_capital = core[0].isupper() or core[0].istitle()
        if (core == "I" and not is_initial) or match.group()[len(core) :].lower().startswith("n"):
            is_capital = False
        word = _Word(
            start=start,
            end=end,
            key=key,
            is_capital=is_capital,
            is_initial=is_initial,
            is_acronym=len(core) > 1 and core.isupper(),
            is_function=key in _FUNCTION_WORDS and not is_initial and core not in _ACRONYMS,
            opens_sentence=opens,
            joins_previous=joins,
        )
        yield word
        previous, previous_end, was_cut = word, match.end(), end != match.end()


def _core(word: str) -> str:
    """Cut a possessive or contracted ending and a lower-case tail: "York-based" to "York"."""
    core = _CONTRACTED.sub("", word) or word
    end = len(core)
    for part in reversed(_HYPHEN.split(core)[1:]):
        if part[0].isupper():
            break
        end -= len(part) + 1
    return core[:end]


def _gap(gap: str, previous: _Word, *, before_opener: bool) -> tuple[bool, bool]:
    """Say of what stands between two words whether it opens a sentence and whether a name may span it."""
    is_abbreviation = previous.is_initial or (previous.is_capital and previous.key in _TITLES)
    if is_abbreviation and gap.startswith(".") and (gap == "." or not before_opener):
        gap = gap[1:]
        if not gap:
            return False, True
    middle = gap.strip()
    if gap.count("\n") > 1 or "\u2029" in gap:
        return True, False
    if not middle:
        return False, True
    return not _OPENS_SENTENCE.isdisjoint(middle), middle == "&"


def _is_initial(text: str, start: int, end: int, *, follows_name: bool) -> bool:
    """Tell an initial with its dot from the end of "AT&T." and from the pronoun that ends a sentence."""
    if end - start != 1 or not text[start].isupper() or text[end : end + 1] != ".":
        return False
    if text[start] == "I":
        return follows_name or text[end + 1 : end + 2].isalpha()
    return start == 0 or text[start - 1] != "&"


def _runs(words: Sequence[_Word]) -> Iterator[Sequence[_Word]]:
    at = 0
    while at < len(words):
        if not words[at].is_capital:
            at += 1
            continue
        end = at + 1
        while (follower := _follower(words, end)) is not None:
            end = follower + 1
        yield words[at:end]
        at = end


def _follower(words: Sequence[_Word], at: int) -> int | None:
    """Find the capitalised word that goes on a run, at `at` or behind up to three particles."""
    for index in range(at, min(at + _MAX_PARTICLES + 1, len(words))):
        word = words[index]
        if not word.joins_previous:
            return None
        if word.is_capital:
            return index
        # "Isle of the Dead" is a name, "Alice the London timetable" is two.
        if word.key not in _PARTICLES or (word.key == "the" and words[index - 1].key != "of"):
            return None
    return None


def _trim(run: Sequence[_Word], seen_capital: set[str], seen_lower: set[str]) -> Sequence[_Word]:
    """Take off function words at both ends and common words that open a sentence."""
    start, end = 0, len(run)
    while start < end:
        before_capital = start + 1 < end and run[start + 1].is_capital
        if not _is_common(run[start], seen_capital, seen_lower, before_capital=before_capital):
            break
        start += 1
        while start < end and not run[start].is_capital:
            start += 1
    while end > start and (_is_function_tail(run[end - 1]) or not run[end - 1].is_capital):
        end -= 1
    return run[start:end]


def _is_common(word: _Word, seen_capital: set[str], seen_lower: set[str], *, before_capital: bool) -> bool:
    if word.is_function:
        return True
    if not word.opens_sentence or word.is_acronym or word.is_initial or word.key in seen_capital:
        return False
    # "New York", or "Lake Como" in a text about a lake: what is common alone is part of the name here.
    is_common_alone = word.key in _ADJECTIVES or word.key in seen_lower
    return word.key in _OPENERS or (is_common_alone and not before_capital)


def _is_function_tail(word: _Word) -> bool:
    """Say whether a last word is no name; a single letter may be one, as in "Vitamin A"."""
    return word.is_function and word.end - word.start > 1
