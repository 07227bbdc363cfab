"""First consents of a batch are what the recorder's rule decides of each alone: every column, event and result."""

from datetime import UTC, datetime, timedelta, timezone

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from common.contracts.consent import ConsentStateChanged
from consent.ledger import first_consents, recorder
from consent.ledger import rules as ledger
from consent.ledger.chain import GENESIS, SALT_BYTES, chained
from consent.ledger.change import Change, count_terms, event_of
from consent.ledger.first_consents import ENTRY, SUBJECT, TERM, Deciding, Written
from consent.ledger.retention import Rule, Term
from consent.ledger.rules import Evidence, SubjectState
from consent.ledger.statement import Alike, Recorded, Registered, Statement
from consent.ledger.store import Known, Subject
from tests.support.builders import inner
from tests.unit.consent.evidences import NOW, opt_in, opt_out, stop

EVERYTHING = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=6)
# what could be taken for an end of a field, of a line or of a text, and what a group's text has itself
WORDS = EVERYTHING | st.sampled_from(["\\N", "\\", '"', '","at":"', "\t", "\r\n", "\\.", "evidence_id", "é"])
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=2)), timezone(timedelta(hours=-9, minutes=-30))])
UNTIL = NOW.replace(tzinfo=None) - timedelta(hours=10)  # in no zone later than now, which would be refused
TIMES = st.datetimes(datetime.fromisoformat("1993-01-31"), UNTIL, timezones=ZONES)
MAYBE = st.none() | WORDS
DRAWN = "5c" * SALT_BYTES


@st.composite
def first(draw: st.DrawFn) -> Evidence:
    return opt_in(
        sender_id=draw(st.sampled_from(["acme", "globex", "initech"])),
        purpose=draw(st.sampled_from(["promotions", "loyalty"])),
        basis=draw(st.sampled_from(["opt_in", "non_commercial"])),
        source=draw(st.sampled_from(["shop", "preference_page"])),
        form_id=draw(MAYBE),
        form_version=draw(MAYBE),
        text_shown=draw(WORDS),
        actor=draw(MAYBE),
        sale_reference=draw(MAYBE),
        occurred_at=draw(st.sampled_from([NOW, NOW + timedelta(seconds=30)]) | TIMES),
        received_at=draw(st.sampled_from([NOW, NOW - timedelta(days=1)])),
    )


@st.composite
def known(draw: st.DrawFn) -> Known:
    senders = {
        sender_id: Registered(
            draw(st.sampled_from(["acme", 'a \\group"'])),
            "controller",
            draw(st.dictionaries(st.sampled_from(["promotions", "loyalty"]), st.just("reopening-1"))),
        )
        for sender_id in draw(st.sets(st.sampled_from(["acme", "globex"])))
    }
    scopes = [(sender_id, purpose) for sender_id in senders for purpose in ("promotions", "loyalty")]
    rules = {scope: Rule(draw(st.integers(1, 36)), draw(st.none() | st.integers(1, 1200))) for scope in scopes}
    return Known(set(), set(), senders, rules, {})


DIFFERING = st.sets(
    st.sampled_from(
        [
            *("sender_id", "purpose", "basis", "source", "received_at", "occurred_at"),
            *("form_id", "form_version", "text_shown", "actor", "sale_reference"),
        ]
    ),
    max_size=2,
)


@st.composite
def alike(draw: st.DrawFn) -> list[Evidence]:
    """Lines as of a file: each differs from the first in a column or two."""
    base = draw(first())
    others = draw(st.lists(st.tuples(first(), DIFFERING), max_size=12))
    return [base, *(replace(base, **{name: getattr(one, name) for name in differing}) for one, differing in others)]


def batch(evidence: list[Evidence]) -> list[Statement]:
    return [
        Statement(f"t1-{n:032x}", None if n % 7 == 6 else f"f1.sealed-{n}_=", replace(one, evidence_id=f"ev-{n}"))
        for n, one in enumerate(evidence)
    ]


@given(alike() | st.lists(first(), min_size=1, max_size=12), known())
def test_a_batch_of_first_consents_is_decided_as_each_alone(evidence: list[Evidence], of: Known) -> None:
    statements = batch(evidence)
    assert first_consents.candidates(dict(enumerate(statements))) == dict(enumerate(statements))
    columns = first_consents.grouped(statements, inner)
    assert sorted(map(repr, of_columns(columns))) == sorted(map(repr, statements))
    salts = "".join(f"{n:032x}" for n in range(len(statements)))
    deciding = Deciding(of.senders, of.rules, NOW, DRAWN)
    written = deciding.written(columns, salts)
    for place, statement in enumerate(of_columns(columns)):
        decided = deciding.recorded(statement)
        assert (*told(written, place), decided) == by_rule(statement, of, f"{place:032x}")


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8))
def test_who_or_what_is_named_twice_is_left_to_the_rule(drawn: list[tuple[int, int]]) -> None:
    statements = [
        Statement(f"t1-{who:032x}", None, replace(opt_in(), evidence_id=f"ev-{named}")) for who, named in drawn
    ]
    people, ids = [who for who, _ in drawn], [named for _, named in drawn]
    found = first_consents.candidates(dict(enumerate(statements)))
    assert set(found) == {
        place for place, (who, named) in enumerate(drawn) if people.count(who) == 1 and ids.count(named) == 1
    }


def test_what_has_more_to_it_than_an_asserted_opt_in_is_left_to_the_rule() -> None:
    [plain] = batch([opt_in(minutes=1)])
    others = [
        *(opt_out(), stop(), opt_in(controller="acme"), opt_in(reopening_rule="reopening-1"), opt_in(clock="a/b")),
        *(opt_in(reference="a/b/mo-1"), opt_in(answers="ev-asked"), opt_in(arrived_at=NOW)),
    ]
    odd = [Statement(f"t1-{n:032x}", None, replace(one, evidence_id=f"ev-o{n}")) for n, one in enumerate(others, 10)]
    for more in ({"erases": True}, {"to_review": True}, {"trace": "00-1-1-01"}):
        odd.append(replace(plain, subject_id=f"t1-{len(odd) + 20:032x}", **more))
        odd[-1] = replace(odd[-1], evidence=replace(plain.evidence, evidence_id=f"ev-m{len(odd)}"))
    assert first_consents.candidates(dict(enumerate([plain, *odd]))) == {0: plain}


def test_an_id_that_a_text_would_have_to_escape_is_left_to_the_rule() -> None:
    for name in ('ev-"', "ev-\\", "ev-\t", "ev-é", "ev-\x7f"):
        [statement] = batch([opt_in()])
        odd = replace(statement, evidence=replace(statement.evidence, evidence_id=name))
        assert first_consents.candidates({0: odd}) == {}


def of_columns(columns: list[Alike]) -> list[Statement]:
    return [statement for alike in columns for statement in alike.statements()]


Told = tuple[Evidence, int, str, str, str, Subject, Term, datetime, ConsentStateChanged]


def told(written: Written, place: int) -> Told:
    """Return what is written of a statement, read as Postgres and the readers of the topic do."""
    entry = read(ENTRY, written.entries[place])
    subject = read(SUBJECT, written.subjects[entry["subject_id"] or ""])
    term = read(TERM, written.terms[place])
    event = msgspec.json.decode(written.events[place], type=ConsentStateChanged)
    assert written.keys[place] == event.key.encode()
    assert {subject["subject_id"], term["subject_id"], event.subject_id} == {entry["subject_id"]}
    evidence = {name: entry.get(name) for name in Evidence.__struct_fields__}
    return (
        msgspec.convert(evidence, Evidence),
        int(entry["position"] or 0),
        entry["salt"] or "",
        entry["sealed"] or "",
        entry["hash"] or "",
        Subject(
            subject_id=subject["subject_id"] or "",
            version=int(subject["version"] or 0),
            state=msgspec.json.decode(subject["state"] or "", type=SubjectState),
            entries=int(subject["entries"] or 0),
            head=subject["head"] or "",
            number=subject["number"],
        ),
        msgspec.convert({name: term[name] for name in Term.__struct_fields__}, Term),
        datetime.fromisoformat(term["due_at"] or ""),
        event,
    )


def by_rule(statement: Statement, of: Known, salt: str) -> tuple[*Told, Recorded]:
    """Return what the recorder makes of a statement about a new subject, line by line."""
    own, subject_id = inner(statement.subject_id), statement.subject_id
    change = Change(Subject(subject_id=subject_id), Subject(subject_id=subject_id), NOW, inner=own)
    decision = recorder._decide_after_ends(change, statement, of._replace(evidence=set()), NOW)
    count_terms([change], of.rules)
    [entry], terms = change.entries, change.terms
    entry = chained(subject_id, own, 1, entry.evidence, NOW, GENESIS, salt)
    assert terms is not None
    assert not terms.ended
    [term] = terms.began
    return (
        entry.evidence,
        entry.position,
        salt,
        entry.sealed,
        entry.hash,
        replace(change.subject, head=entry.hash),
        term,
        term.ask_at or term.expires_at,
        event_of(change),
        Recorded(statement, decision, change.subject.version),
    )


def read(columns: tuple[str, ...], line: str) -> dict[str, str | None]:
    """Return a line of COPY's text format by column."""
    fields = line.removesuffix("\n").split("\t")
    assert "\n" not in line.removesuffix("\n")
    return {name: None if text == "\\N" else unescaped(text) for name, text in zip(columns, fields, strict=True)}


def unescaped(text: str) -> str:
    parts = [part.replace("\\t", "\t").replace("\\n", "\n").replace("\\r", "\r") for part in text.split("\\\\")]
    return "\\".join(parts)


def test_the_salt_of_each_is_its_own() -> None:
    statements = batch([opt_in(), opt_in()])
    salts = "ab" * SALT_BYTES + "cd" * SALT_BYTES
    deciding = Deciding({}, {}, NOW, DRAWN)
    written = deciding.written(first_consents.grouped(statements, inner), salts)
    assert [read(ENTRY, line)["salt"] for line in written.entries] == ["ab" * SALT_BYTES, "cd" * SALT_BYTES]
    assert ledger.standing(deciding.recorded(statements[0]).decision.state, "acme", "promotions") == "opted_in"
