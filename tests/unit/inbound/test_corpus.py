"""What the keyword rules must show on the corpus (`make corpus` prints the figures)."""

from collections import Counter

from inbound.keywords import Understanding, classify
from tests.unit.inbound.corpus import (
    CLASSES,
    READERS,
    ROWS,
    WISHES,
    Labelled,
    accidental_starts,
    everyday,
    false_certainties,
    labelled,
    lines,
    ours,
    ours_without_hints,
    plain,
    precision,
    recall,
    report,
)
from tests.unit.inbound.likeness import WRITTEN
from tests.unit.inbound.rivals import aws, mautic, parcelvoy, twilio

READ = [ours(line) for line in lines()]
READ_WITHOUT_HINTS = [ours_without_hints(line) for line in lines()]


def test_opt_outs_are_found_and_little_else_is_taken_for_one() -> None:
    found, sure = recall(READ, "opt-out"), precision(READ, "opt-out")

    assert found is not None
    assert sure is not None
    assert found >= 0.99
    assert sure >= 0.97


def test_without_a_hint_hardly_an_opt_out_goes_on_being_written_to() -> None:
    kept_quiet = recall(READ_WITHOUT_HINTS, "opt-out or held")

    assert kept_quiet is not None
    assert kept_quiet >= 0.995


def test_no_negation_and_no_bus_stop_is_a_stop_with_certainty() -> None:
    assert false_certainties(READ) == []
    assert false_certainties(READ_WITHOUT_HINTS) == []


def test_nothing_loosens_by_accident() -> None:
    assert accidental_starts(READ) == []
    assert accidental_starts(READ_WITHOUT_HINTS) == []


def test_a_third_of_the_corpus_is_what_a_naive_rule_gets_wrong() -> None:
    corpus = lines()

    assert len(corpus) >= 600
    assert sum(line.tempting for line in corpus) * 3 >= len(corpus)


def test_a_quarter_of_the_corpus_was_held_out() -> None:
    assert 0.2 <= sum(line.held_out for line in lines()) / len(lines()) <= 0.35


def test_every_line_has_a_known_class_and_a_reason_and_none_is_there_twice() -> None:
    assert {name for line in lines() for name in line.expected} <= set(CLASSES)
    assert all(line.why for line in lines())
    assert max(Counter((line.text, line.language) for line in lines()).values()) == 1


def test_every_language_has_opt_outs_and_traps() -> None:
    for language in ("fr", "en", "es", "de", "nl", "it", "pt", "ar"):
        part = [line for line in lines() if line.language == language]
        assert sum(line.opt_out for line in part) >= 20, language
        assert sum(line.expected[0] in ("review", "none") for line in part) >= 10, language


def test_the_rivals_read_as_their_documents_say() -> None:
    for read, stop, start, contact, none in (
        (twilio, ["stop", " STOP\n", "ARRET"], ["yes", "UNSTOP"], ["INFO"], ["STOP PLEASE", "stop."]),
        (aws, ["stop please", "opt-out"], [], ["aide"], ["please stop", "Endlich"]),
        (mautic, ["STOP", "stop"], [], [], ["stop ", "STOP 36111"]),
        (parcelvoy, ["bus stop", "unstoppable"], ["when does it start?"], ["helpful"], ["ok"]),
    ):
        assert {read(text) for text in stop} == {"stop"}
        assert {read(text) for text in start} <= {"start"}
        assert {read(text) for text in contact} <= {"contact"}
        assert {read(text) for text in none} == {"none"}


LABELLED = [(line, classify(line.text)) for line in labelled() if line.part == "tune"]


def share(readings: list[tuple[Labelled, Understanding]], intent: str) -> float:
    return sum(found.intent == intent for _, found in readings) / len(readings)


def test_no_labelled_wish_is_read_as_nothing() -> None:
    wishes = [(line, found) for line, found in LABELLED if line.wish]

    assert [line.text for line, found in wishes if found.intent not in ("stop", "review")] == []
    assert share(wishes, "stop") >= 0.7


def test_few_labelled_replies_without_a_wish_are_stopped_or_held() -> None:
    others = [(line, found) for line, found in LABELLED if line.labels.isdisjoint(WISHES)]
    ordinary = [(line, found) for line, found in LABELLED if line.ordinary]

    assert share(others, "stop") < 0.02
    assert share(ordinary, "review") < 0.1
    assert [line.text for line, found in LABELLED if found.intent == "start" and "start" not in line.labels] == []


def test_few_plain_replies_are_held_and_none_is_stopped() -> None:
    read = [classify(text).intent for text in plain()]

    assert "stop" not in read
    assert read.count("review") / len(read) < 0.05


def test_replies_of_every_day_are_read_as_they_are_meant() -> None:
    read = [(text, label, classify(text).intent) for text, label in everyday()]
    wishes = [(text, intent) for text, label, intent in read if label == "stop"]
    others = [(text, intent) for text, label, intent in read if label == "nothing"]

    assert [text for text, intent in wishes if intent not in ("stop", "review")] == []
    assert sum(intent == "review" for _, intent in wishes) / len(wishes) < 0.05
    assert [text for text, intent in others if intent not in ("none", "contact", "review")] == []
    assert sum(intent == "review" for _, intent in others) / len(others) < 0.1


def test_no_plain_reply_teaches_the_weights() -> None:
    taught = {row.split("\t")[0] for row in WRITTEN.read_text(encoding="utf-8").split("\n")}

    assert taught.isdisjoint(plain())
    assert taught.isdisjoint(text for text, _ in everyday())
    assert {line.text for line in lines()}.isdisjoint(plain())


def test_the_report_sets_every_reader_beside_ours() -> None:
    text = "\n".join(report())

    assert all(name in text for name in READERS)
    assert all(row in text for row in ROWS)
