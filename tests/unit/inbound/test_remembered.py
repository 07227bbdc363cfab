"""Meanings found again by a keyed hash are those of `classify`, and hold no text."""

import gc

import msgspec
from msgspec.structs import astuple, replace

from inbound.keywords import ANYONE, Public, Remembered, Understanding, classify
from tests.unit.inbound.corpus import labelled

KEY = bytes(32)
SPAIN = Public("es", "ES")


def read(text: str, public: Public = ANYONE) -> Understanding:
    return replace(classify(text, language=public.language, country=public.country), normalised="")


def test_each_text_of_the_corpus_means_the_same_when_it_comes_again() -> None:
    remembered = Remembered(KEY)
    texts = [line.text for line in labelled()][:400]

    first = [remembered.understand(text, ANYONE) for text in texts]
    again = [remembered.understand(text, ANYONE) for text in texts]

    assert first == again == [read(text) for text in texts]


def test_a_text_means_what_it_means_to_each_public() -> None:
    remembered = Remembered(KEY)
    texts = ("SI", "ALTA", "baja", "OUI", "STOP")

    told = [(text, public) for text in texts for public in (ANYONE, SPAIN, Public("es"), Public(None, "ES"))]

    for _ in range(2):
        assert [remembered.understand(*each) for each in told] == [read(*each) for each in told]
    assert len({remembered.understand("SI", public).intent for public in (ANYONE, SPAIN)}) == 2


def test_no_word_of_a_text_is_remembered() -> None:
    remembered = Remembered(KEY)
    texts = ("STOP Machinex", "Machinex, c'est ouvert demain ?", "arretez Machinex svp", "STOP")

    named = [remembered.understand(text, ANYONE).named for text in texts]

    assert ("machinex",) in named
    assert len(remembered) == len([each for each in named if not each])
    assert "machinex" not in _strings_of(remembered)
    assert "machinex" in _strings_of([classify(texts[0])]), "a meaning before it is remembered"


def _strings_of(root: object) -> str:
    """Return all that hangs below an object, written out."""
    seen, left, told = set[int](), [root], []
    while left:
        each = left.pop()
        if id(each) in seen or isinstance(each, type):
            continue
        seen.add(id(each))
        told.append(repr(each) if isinstance(each, str | bytes) else "")
        left += astuple(each) if isinstance(each, msgspec.Struct) else gc.get_referents(each)
    return "\n".join(told).lower()


def test_the_oldest_meanings_go_and_those_that_come_again_stay() -> None:
    remembered = Remembered(KEY, most=10)
    first = remembered.understand("STOP", ANYONE)
    for n in range(1_000):
        remembered.understand(f"bonjour {n}", ANYONE)
        assert remembered.understand("STOP", ANYONE) is first
    assert len(remembered) <= 20


def test_two_processes_name_a_text_by_different_hashes() -> None:
    one, other = Remembered(KEY), Remembered(bytes(31) + b"1")
    for each in (one, other):
        each.understand("STOP", ANYONE)
    assert one._recent.keys().isdisjoint(other._recent)
