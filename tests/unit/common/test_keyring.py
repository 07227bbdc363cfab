"""What leaves a transaction in place of a number or a text: opens only where it belongs, and says nothing when not."""

import base64
import hashlib
import hmac
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given
from hypothesis import strategies as st
from msgspec import convert
from pydantic import ValidationError

from common.contracts.dispatch import HoldChanged, MessagesChanged
from common.kafka.reading.records import of_current_key
from common.keyring import (
    MISMATCHES,
    FieldKeys,
    LinkKeys,
    OtherKey,
    SubjectKeys,
    UnknownOuterKey,
    Unreadable,
    differing,
    fingerprints,
    owner_of,
    owners_of,
)
from common.privacy import stop_link
from common.settings import KeyRingSettings, SubjectRingSettings
from common.sms.subject_id import digits_of
from common.web.edge_id import EdgeIds

NUMBER = "+33639980001"
CONTEXT = "number:o1-00000000000000000000000000000001"
NOW = datetime(2026, 11, 30, tzinfo=UTC)
CHANGE = {
    **{"message_id": "m", "sender_id": "lune", "category": "marketing", "version": 1, "status": "pending"},
    "policy_version": "france-1",
}
HELD = HoldChanged(category="marketing", version=1, since=NOW, consents_as_of=None, ended_at=None)


def ring(current: str, *others: str) -> KeyRingSettings:
    """Each key's bytes are made of its id."""
    keys = {key_id: base64.b64encode(key_id.encode().ljust(32, b"-")).decode() for key_id in (current, *others)}
    return KeyRingSettings.model_validate({"current": current, "keys": keys})


def subject_ring(key: bytes, current: str, *others: str) -> SubjectRingSettings:
    """`key`: the subject key's bytes. Each outer key's bytes are made of its id."""
    outer = ring(current, *others)
    keys = {"k1": base64.b64encode(key).decode()}
    return SubjectRingSettings.model_validate({"current": "k1", "keys": keys, "outer": outer})


OURS, OTHER = subject_ring(b"k1".ljust(32, b"-"), "o1"), subject_ring(b"o" * 32, "o1")
BOTH = subject_ring(b"k1".ljust(32, b"-"), "o2", "o1")
ROTATED = subject_ring(b"k1".ljust(32, b"-"), "o2")
subject_keys, rotating, rotated_keys = SubjectKeys(OURS), SubjectKeys(BOTH), SubjectKeys(ROTATED)
fields = FieldKeys(ring("k1"), subject_keys)
texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts, texts)
def test_what_is_sealed_opens_in_its_context(plain: str, context: str) -> None:
    assert fields.unseal(fields.seal(plain, context), context) == plain


@given(texts, texts, texts)
def test_moved_to_another_context_it_does_not_open(plain: str, context: str, other: str) -> None:
    if context != other:
        with pytest.raises(Unreadable):
            fields.unseal(fields.seal(plain, context), other)


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_damaged_anywhere_it_does_not_open(at: int, flip: int) -> None:
    key_id, _, body = fields.seal(NUMBER, CONTEXT).partition(".")
    raw = bytearray(base64.urlsafe_b64decode(body))
    raw[at % len(raw)] ^= flip
    with pytest.raises(Unreadable):
        fields.unseal(f"{key_id}.{base64.urlsafe_b64encode(bytes(raw)).decode()}", CONTEXT)


@given(st.integers(min_value=0, max_value=58))
def test_cut_short_it_does_not_open(length: int) -> None:
    with pytest.raises(Unreadable):
        fields.unseal(fields.seal(NUMBER, CONTEXT)[:length], CONTEXT)


@given(st.text())
def test_anything_else_is_unreadable_and_is_not_repeated(sealed: str) -> None:
    with pytest.raises(Unreadable) as refused:
        fields.unseal(f"k1.{sealed}", CONTEXT)
    assert str(refused.value) == "the field does not open in this context"


def test_the_same_text_is_never_sealed_alike() -> None:
    assert len({fields.seal(NUMBER, CONTEXT) for _ in range(100)}) == 100


def test_a_rotated_ring_opens_the_old_and_seals_with_the_new() -> None:
    old = fields.seal(NUMBER, CONTEXT)
    rotated = FieldKeys(ring("k2", "k1"), subject_keys)
    assert rotated.unseal(old, CONTEXT) == NUMBER
    new = rotated.seal(NUMBER, CONTEXT)
    assert new.startswith("k2.")
    with pytest.raises(Unreadable, match="no key 'k2'"):
        fields.unseal(new, CONTEXT)


def test_a_sealed_field_that_claims_another_key_does_not_open() -> None:
    both = FieldKeys(ring("k2", "k1"), subject_keys)
    with pytest.raises(Unreadable):
        both.unseal(both.seal(NUMBER, CONTEXT).replace("k2.", "k1."), CONTEXT)


def test_a_subject_id_is_stable_and_names_its_key() -> None:
    """Frozen: a change here is another subject for every number on record."""
    assert subject_keys.inner(subject_keys.subject_id(NUMBER)) == "k1-2a3181e0c55c65f5fa2f92902d7f5132"
    assert subject_keys.subject_id(NUMBER) == "o1-e7c0f2fa363ea655642b65f7d67fcb15"
    assert rotating.subject_id(NUMBER) == rotated_keys.subject_id(NUMBER) == "o2-0def5c7d45ef18b140839d691861a5b9"


@given(st.integers(0, 9999), st.integers(0, 9999))
def test_two_numbers_are_two_subjects(first: int, second: int) -> None:
    numbers = [f"+3363998{n:04d}" for n in (first, second)]
    ids = [subject_keys.subject_id(number) for number in numbers]
    assert (ids[0] == ids[1]) == (first == second)
    assert all(len(subject_id) == len("o1-") + 32 for subject_id in ids)
    assert subject_keys.subject_ids(numbers) == ids
    assert subject_keys.subject_ids([]) == []
    assert subject_keys.both_ids(numbers) == [(one, subject_keys.inner(one)) for one in ids]


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused_and_not_shown(length: int) -> None:
    secret = base64.b64encode(b"s" * length).decode()
    settings = KeyRingSettings.model_validate({"current": "k1", "keys": {"k1": secret}})
    told = {"current": "k2", "keys": ring("k2").keys, "outer": settings}
    for wrong in (told, told | {"keys": {"k2": secret}, "outer": ring("o1")}):
        with pytest.raises(ValueError, match=f"{length} bytes, not 32") as refused:
            SubjectKeys(SubjectRingSettings.model_validate(wrong))
        assert not secret or secret not in str(refused.value)
    with pytest.raises(ValueError, match=f"{length} bytes, not 32") as refused:
        FieldKeys(settings, subject_keys)
    assert not secret or secret not in str(refused.value)


def test_a_current_key_that_is_not_in_the_ring_is_refused() -> None:
    with pytest.raises(ValidationError, match="not in the ring"):
        KeyRingSettings.model_validate({"current": "k2", "keys": {"k1": "x"}})


def test_a_ring_does_not_show_its_keys() -> None:
    settings = ring("k1")
    assert base64.b64encode(b"k1".ljust(32, b"-")).decode() not in repr(settings) + str(settings)


@given(st.lists(st.tuples(texts, texts), max_size=5))
def test_many_sealed_at_once_open_as_one_by_one_and_share_no_nonce(many: list[tuple[str, str]]) -> None:
    sealed = fields.seal_all(many)
    assert [fields.unseal(each, context) for each, (_, context) in zip(sealed, many, strict=True)] == [
        plain for plain, _ in many
    ]
    assert all(re.fullmatch(r"k1\.[A-Za-z0-9_=-]+", each) for each in sealed)  # as `seal` writes: safe in a URL
    assert len({each[:19] for each in sealed}) == len(many)  # "k1." and the 12 bytes of the nonce


def test_a_number_sealed_by_the_inner_id_opens_by_the_subject_id_of_its_person_alone() -> None:
    both = subject_keys.both_ids([NUMBER, "+33639980002"])
    first, second = fields.seal_numbers([(NUMBER, both[0][1]), ("+33639980002", both[1][1])])
    assert [fields.unseal(first, f"number:{both[0][0]}"), fields.unseal(second, f"number:{both[1][0]}")] == [
        NUMBER,
        "+33639980002",
    ]
    with pytest.raises(Unreadable):
        fields.unseal(first, f"number:{both[1][0]}")


def test_a_number_and_the_texts_of_its_person_sealed_together_open_each_by_its_own_context_alone() -> None:
    [(subject_id, inner)] = subject_keys.both_ids([NUMBER])
    sealed = fields.seal_with_number(NUMBER, inner, [("STOP Lune", "text:m1"), ("lune", "named:m1")])
    contexts = [f"number:{subject_id}", "text:m1", "named:m1"]
    assert [*map(fields.unseal, sealed, contexts)] == [NUMBER, "STOP Lune", "lune"]
    assert len({each[:19] for each in sealed}) == len(sealed), "a nonce each"
    for each, other in zip(sealed, [*contexts[1:], contexts[0]], strict=True):
        with pytest.raises(Unreadable):
            fields.unseal(each, other)


@given(st.from_regex(r"\+[0-9]{1,15}", fullmatch=True), st.binary(min_size=32, max_size=32))
def test_a_subject_id_is_the_hmac_of_the_number_encrypted(e164: str, key: bytes) -> None:
    keys = SubjectKeys(subject_ring(key, "o1"))
    expected = hmac.new(key, e164.encode(), hashlib.sha256).digest()[:16]
    outer = Cipher(AES256(b"o1".ljust(32, b"-")), ECB()).encryptor().update(expected).hex()  # noqa: S305
    assert keys.subject_id(e164) == f"o1-{outer}"
    assert keys.inner(f"o1-{outer}") == f"k1-{expected.hex()}"
    assert keys.of_text(e164) not in (keys.subject_id(e164), keys.inner(f"o1-{outer}")), "a text, whatever it holds"


def test_threads_compute_ids_at_the_same_time() -> None:
    numbers = [f"+3363998{n:04d}" for n in range(4000)]
    expected = subject_keys.subject_ids(numbers)

    def compute(_: int) -> bool:
        return subject_keys.subject_ids(numbers) == expected and all(map(subject_keys.inner, expected))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(compute, range(40)))


def test_an_id_of_an_older_outer_key_becomes_the_current_one_without_the_number() -> None:
    old, new = subject_keys.subject_id(NUMBER), rotated_keys.subject_id(NUMBER)
    assert rotating.current(old) == rotating.current(new) == new != old
    assert rotating.inner(old) == rotating.inner(new) == subject_keys.inner(old)
    assert rotating.outer(rotating.inner(old)) == rotating.of_digits(digits_of(rotating.inner(old))) == new
    assert [rotating.knows(each) for each in (old, new, "o3-" + "0" * 32, "o1-0", "")] == [True, True, *[False] * 3]


@pytest.mark.parametrize("unknown", ["o2-" + "0" * 32, "somebody", "", "k1-" + "0" * 32])
def test_an_id_of_an_unknown_outer_key_is_nobodys(unknown: str) -> None:
    for turned in (subject_keys.current, subject_keys.inner):
        with pytest.raises(UnknownOuterKey, match="no outer key"):
            turned(unknown)
    for short in ("o1-00", "o1-zz"):
        with pytest.raises(UnknownOuterKey, match="no subject id"):
            subject_keys.inner(short)
    with pytest.raises(Unreadable):
        fields.unseal(fields.seal(NUMBER, CONTEXT), f"number:{unknown}")
    with pytest.raises(ValueError, match="not whole blocks"):
        subject_keys.of_digits("00")
    assert subject_keys.inner(subject_keys.subject_id(NUMBER)) == "k1-2a3181e0c55c65f5fa2f92902d7f5132"


def test_what_has_to_stay_equal_is_made_of_the_inner_id() -> None:
    """An encrypted number, an edge id, a stop link and a request's fingerprint of before are good after a rotation."""
    old, new = subject_keys.subject_id(NUMBER), rotated_keys.subject_id(NUMBER)
    after = FieldKeys(ring("k1"), rotated_keys)
    assert after.unseal(fields.seal(NUMBER, f"number:{old}"), f"number:{new}") == NUMBER
    edge = EdgeIds(OURS).of("acme").shown(old)
    assert EdgeIds(ROTATED).of("acme").shown(new) == EdgeIds(BOTH).of("acme").shown(old) == edge
    assert EdgeIds(ROTATED).of("acme").subject_id(edge) == new
    before_, after_ = (LinkKeys(ring("k1"), keys) for keys in (subject_keys, rotated_keys))
    link = stop_link.token(before_, "lune", old, NOW)
    assert link == stop_link.token(after_, "lune", new, NOW)
    found = stop_link.read(link, after_, "lune")
    assert found is not None
    assert rotated_keys.of_digits(found.person) == new
    assert subject_keys.of_request("a")[0] == rotated_keys.of_request("a")[0]
    assert subject_keys.of_text("a") == rotated_keys.of_text("a")


def test_a_persons_id_under_another_outer_key_of_the_ring_can_be_told() -> None:
    for named in (rotating.subject_id(NUMBER), subject_keys.subject_id(NUMBER)):
        assert rotating.under(named, "o1") == subject_keys.subject_id(NUMBER)
    with pytest.raises(UnknownOuterKey, match="'t9'"):
        rotating.under(subject_keys.subject_id(NUMBER), "t9")


def test_stored_ids_of_another_outer_key_stop_the_start() -> None:
    rotating.look_at([rotating.subject_id(NUMBER), "no id"])
    with pytest.raises(OtherKey, match=r"'o1'.*the current one again"):
        rotating.look_at([rotating.subject_id(NUMBER), subject_keys.subject_id(NUMBER)])


def test_the_key_of_an_unreadable_record_stops_no_start() -> None:
    """Whoever writes one would keep a service down."""
    assert rotating.look_at([rotating.subject_id(NUMBER), f"nobody-{'0f' * 16}"]) == {"nobody"}
    with pytest.raises(OtherKey):
        rotating.look_at([f"nobody-{'0f' * 16}"])


def test_an_outer_key_has_an_id_of_its_own_and_of_few_letters() -> None:
    told = {"current": "k1", "keys": ring("k1").keys}
    with pytest.raises(ValidationError, match="rename the outer key"):
        SubjectRingSettings.model_validate(told | {"outer": ring("k1")})
    with pytest.raises(ValidationError, match="something else begin with 'ev'"):
        SubjectRingSettings.model_validate(told | {"outer": ring("ev")})
    for wrong in ("o-1", "O1", "o" * 17, "", "00"):
        with pytest.raises(ValidationError, match="a letter and then up to 15 of a-z and 0-9"):
            SubjectRingSettings.model_validate(told | {"outer": ring(wrong)})


def test_a_fingerprint_is_the_same_for_the_same_key_and_tells_nothing_of_it() -> None:
    ours, secret = fingerprints(BOTH), b"k1".ljust(32, b"-")
    assert ours == fingerprints(subject_ring(secret, "o1", "o2"))
    assert (set(ours), len(set(ours.values()))) == ({"k1", "o1", "o2"}, 3)
    assert all(re.fullmatch(r"[0-9a-f]{16}", each) for each in ours.values())
    assert ours["k1"] not in (secret.hex(), subject_keys.subject_id(NUMBER))


def test_keys_differ_under_an_id_that_both_have_and_under_no_other() -> None:
    """A ring with one key more, or another current one, is a rotation."""
    ours = fingerprints(BOTH)
    assert differing(ours, fingerprints(OURS)) == []
    assert differing(ours, fingerprints(ROTATED)) == []
    assert differing(ours, {}) == []
    assert differing(ours, fingerprints(OTHER)) == ["k1"]
    assert differing(ours, ours | {"o2": "0" * 16}) == ["o2"]


def test_the_owner_of_a_number_is_its_subject_by_our_key_whatever_the_event_names() -> None:
    subjects = subject_keys
    named = SubjectKeys(OTHER).subject_id(NUMBER)
    before = MISMATCHES._value.get()
    owner = owner_of(fields.seal(NUMBER, f"number:{named}"), named, fields, subjects)
    assert (owner.e164, owner.subject_id) == (NUMBER, subjects.subject_id(NUMBER))
    assert MISMATCHES._value.get() == before + 1
    same = owner.subject_id
    assert owner_of(fields.seal(NUMBER, f"number:{same}"), same, fields, subjects) == owner
    assert MISMATCHES._value.get() == before + 1


def test_only_the_request_itself_opens_its_answer() -> None:
    """Nor does the fingerprint, which is stored beside the answer."""
    said = "/v1/consents\n{'number': '+33639980001'}"
    keys = subject_keys
    fingerprint, cipher = keys.of_request(said)
    sealed = cipher.seal(b"201", "crm\x1fk-1")
    assert fingerprint == keys.of_text(said)
    assert keys.of_request(said)[1].unseal(sealed, "crm\x1fk-1") == b"201"
    for other in (keys.of_request(said + " ")[1], keys.of_request(fingerprint)[1]):
        with pytest.raises(Unreadable):
            other.unseal(sealed, "crm\x1fk-1")
    with pytest.raises(Unreadable):
        cipher.unseal(sealed, "crm\x1fk-2")


def test_an_event_of_several_people_names_each_by_the_current_outer_key() -> None:
    old, new = subject_keys.subject_id(NUMBER), rotated_keys.subject_id(NUMBER)
    told = convert(
        {"changes": [{**CHANGE, "subject_id": who} for who in (new, old, "no id")]},
        MessagesChanged,
    )
    read = of_current_key(told, rotating)
    assert isinstance(read, MessagesChanged)
    assert [each.subject_id for each in read.changes] == [new, new, "no id"]
    assert of_current_key(read, rotating) is read
    with pytest.raises(UnknownOuterKey):
        of_current_key(told, rotated_keys)
    assert of_current_key(HELD, rotated_keys) is HELD, "of nobody"


def test_fields_opened_together_open_as_one_by_one() -> None:
    subjects = SubjectKeys(subject_ring(b"a" * 32, "o1", "o0"))
    fields, others = FieldKeys(ring("f2", "f1"), subjects), FieldKeys(ring("f3"), subjects)
    older = FieldKeys(ring("f1"), subjects)
    numbers = [f"+3363998{n:04d}" for n in range(6)]
    people = [subjects.subject_id(number) for number in numbers]
    carried = subjects.under(people[5], "o0")
    good = fields.seal(numbers[0], f"number:{people[0]}")
    sealed = [
        (good, people[0]),
        (older.seal(numbers[1], f"number:{people[1]}"), people[1]),
        (good, people[1]),
        (others.seal(numbers[2], f"number:{people[2]}"), people[2]),
        (fields.seal(numbers[3], f"number:{people[4]}"), people[4]),  # of another person, who is named
        (fields.seal(numbers[5], f"number:{people[5]}"), carried),
        *(
            (damaged, people[0])
            for damaged in ("", ".", "é", good[:-4], f"{good}=", good.replace("f2.", "f1."), "f2.é")
        ),
        (good, "nobody"),
    ]

    def alone(number: str, named: str) -> tuple[str, str] | None:
        try:
            return owner_of(number, named, fields, subjects)
        except Unreadable:
            return None

    assert owners_of(sealed, fields, subjects) == [alone(*each) for each in sealed]
    assert owners_of(sealed, fields, subjects)[0] == (numbers[0], people[0])
    assert owners_of(sealed, fields, subjects)[4] == (numbers[3], people[3])

    def text_alone(text: str, context: str) -> str | None:
        try:
            return fields.unseal(text, context)
        except Unreadable:
            return None

    text = fields.seal("Soldes é", "text:1")
    texts = [
        (text, "text:1"),
        (older.seal("a", "text:2"), "text:2"),
        (text, "text:2"),
        (others.seal("a", "text:1"), "text:1"),
        *((damaged, "text:1") for damaged in ("", ".", "é", text[:-4], text.replace("f2.", "f1."), "f2.é")),
    ]
    assert fields.unseal_texts(texts) == [text_alone(*each) for each in texts]
    assert fields.unseal_texts(texts)[:3] == ["Soldes é", "a", None]
