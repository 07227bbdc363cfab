"""What leaves a transaction in place of a number or a text: opens only where it belongs, and says nothing when not."""

import base64
import hashlib
import hmac
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.keyring import MISMATCHES, FieldKeys, SubjectKeys, Unreadable, differing, fingerprints, owner_of
from common.settings import KeyRingSettings

NUMBER = "+33639980001"
CONTEXT = "number:k1-00000000000000000000000000000001"


def ring(current: str, *others: str) -> KeyRingSettings:
    """Each key's bytes are made of its id."""
    keys = {key_id: base64.b64encode(key_id.encode().ljust(32, b"-")).decode() for key_id in (current, *others)}
    return KeyRingSettings.model_validate({"current": current, "keys": keys})


OTHER = KeyRingSettings.model_validate({"current": "k1", "keys": {"k1": base64.b64encode(b"o" * 32).decode()}})
fields = FieldKeys(ring("k1"))
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
    rotated = FieldKeys(ring("k2", "k1"))
    assert rotated.unseal(old, CONTEXT) == NUMBER
    new = rotated.seal(NUMBER, CONTEXT)
    assert new.startswith("k2.")
    with pytest.raises(Unreadable, match="no key 'k2'"):
        fields.unseal(new, CONTEXT)


def test_a_sealed_field_that_claims_another_key_does_not_open() -> None:
    both = FieldKeys(ring("k2", "k1"))
    with pytest.raises(Unreadable):
        both.unseal(both.seal(NUMBER, CONTEXT).replace("k2.", "k1."), CONTEXT)


def test_a_subject_id_is_stable_and_names_its_key() -> None:
    """Frozen: a change here is another subject for every number on record."""
    assert SubjectKeys(ring("k1")).subject_id(NUMBER) == "k1-2a3181e0c55c65f5fa2f92902d7f5132"
    assert SubjectKeys(ring("k2", "k1")).subject_id(NUMBER) == "k2-8dba6250e70fa3a6657ff09f32c09f08"


@given(st.integers(0, 9999), st.integers(0, 9999))
def test_two_numbers_are_two_subjects(first: int, second: int) -> None:
    keys = SubjectKeys(ring("k1"))
    ids = [keys.subject_id(f"+3363998{n:04d}") for n in (first, second)]
    assert (ids[0] == ids[1]) == (first == second)
    assert all(len(subject_id) == len("k1-") + 32 for subject_id in ids)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused_and_not_shown(length: int) -> None:
    secret = base64.b64encode(b"s" * length).decode()
    settings = KeyRingSettings.model_validate({"current": "k1", "keys": {"k1": secret}})
    for keys in (SubjectKeys, FieldKeys):
        with pytest.raises(ValueError, match=f"{length} bytes, not 32") as refused:
            keys(settings)
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


@given(st.from_regex(r"\+[0-9]{1,15}", fullmatch=True), st.binary(min_size=32, max_size=32))
def test_a_subject_id_is_the_hmac_of_the_number(e164: str, key: bytes) -> None:
    keys = KeyRingSettings.model_validate({"current": "k1", "keys": {"k1": base64.b64encode(key).decode()}})
    expected = hmac.new(key, e164.encode(), hashlib.sha256).hexdigest()[:32]
    assert SubjectKeys(keys).subject_id(e164) == f"k1-{expected}"


def test_a_fingerprint_is_the_same_for_the_same_key_and_tells_nothing_of_it() -> None:
    ours, secret = fingerprints(ring("k1", "k2")), b"k1".ljust(32, b"-")
    assert ours == fingerprints(ring("k2", "k1"))
    assert len(set(ours.values())) == 2
    assert all(re.fullmatch(r"[0-9a-f]{16}", each) for each in ours.values())
    assert ours["k1"] not in (secret.hex(), SubjectKeys(ring("k1")).subject_id(NUMBER))


def test_keys_differ_under_an_id_that_both_have_and_under_no_other() -> None:
    """A ring with one key more, or another current one, is a rotation."""
    ours = fingerprints(ring("k1", "k2"))
    assert differing(ours, fingerprints(ring("k1"))) == []
    assert differing(ours, fingerprints(ring("k3", "k2"))) == []
    assert differing(ours, {}) == []
    assert differing(ours, ours | {"k2": "0" * 16}) == ["k2"]


def test_the_owner_of_a_number_is_its_subject_by_our_key_whatever_the_event_names() -> None:
    subjects = SubjectKeys(ring("k1"))
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
    keys = SubjectKeys(ring("k1"))
    fingerprint, cipher = keys.of_request(said)
    sealed = cipher.seal(b"201", "crm\x1fk-1")
    assert fingerprint == keys.subject_id(said)
    assert keys.of_request(said)[1].unseal(sealed, "crm\x1fk-1") == b"201"
    for other in (keys.of_request(said + " ")[1], keys.of_request(fingerprint)[1]):
        with pytest.raises(Unreadable):
            other.unseal(sealed, "crm\x1fk-1")
    with pytest.raises(Unreadable):
        cipher.unseal(sealed, "crm\x1fk-2")
