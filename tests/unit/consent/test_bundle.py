"""A proof bundle holds by itself; and whoever forges one, even with our own keys, is found out by what it says."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from msgspec.structs import replace

from common.privacy.signing import PublicKeys, SigningKeys
from common.settings import KeyRingSettings
from consent.ledger.chain import GENESIS, PERSONAL, chained
from consent.ledger.rules import Evidence
from consent.proof import receipt as proof
from consent.proof import verify_bundle
from consent.proof.bundle import Report, Standing, Withheld, check
from tests.unit.consent.bundles import (
    SAID,
    bundle_of,
    campaign_of,
    chain_of,
    keys,
    message,
    party,
    published,
    subject_line,
    whole,
)
from tests.unit.consent.evidences import at, opt_in, opt_out, stop

SEED = "cXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXE="
strangers = SigningKeys(KeyRingSettings.model_validate({"current": "p1", "keys": {"p1": SEED}}))


def checked(file: bytes, trusted: PublicKeys | None = published) -> Report:
    return check(file.splitlines(keepends=True), trusted)


def why(file: bytes, trusted: PublicKeys | None = published) -> str:
    return "\n".join(problem.why for problem in checked(file, trusted).problems)


def test_what_we_write_holds() -> None:
    report = checked(whole())
    assert report.problems == []
    assert report.holds
    assert [entry.evidence for entry in report.entries] == list(SAID)
    assert report.signed_by == {"p1"}
    assert [c.state for c in report.subjects[0].consents] == ["opted_in"]


def test_a_person_of_whom_nothing_is_held_has_a_bundle_that_says_so() -> None:
    report = checked(whole(()))
    assert report.holds
    assert report.entries == []


def test_it_is_checked_with_no_more_than_a_digest_and_any_jws_library() -> None:
    """What docs/proof.md tells a regulator who does not want our code."""
    *lines, end = whole().splitlines(keepends=True)
    jwk = jwt.PyJWK(json.loads(lines[1])["jwks"]["keys"][0])
    sealed = jwt.decode(json.loads(end)["signature"], jwk, algorithms=["EdDSA"])
    assert (sealed["sha256"], sealed["lines"]) == (hashlib.sha256(b"".join(lines)).hexdigest(), len(lines))
    entry = json.loads(lines[5])
    assert jwt.decode(entry["receipt"], jwk, algorithms=["EdDSA"])["ledger"]["hash"] == entry["entry"]["hash"]


def test_a_stranger_signs_well_and_is_believed_by_nobody_who_has_our_keys() -> None:
    forged = bundle_of(subject_line(chain_of()), chain_of(), by=strangers)
    assert checked(forged, None).holds, "it is whole: that is all a file can say of itself"
    assert "the signature does not hold" in why(forged, published)


@pytest.mark.parametrize(
    ("position", "changes"),
    [
        (1, {"text_shown": "Oui"}),
        (1, {"kind": "request"}),
        (1, {"purpose": "loyalty"}),
        (2, {"occurred_at": at(0)}),
        (3, {"sale_reference": "F-2026-2"}),
        (3, {"evidence_id": "ev-other"}),
    ],
)
def test_an_entry_rewritten_by_ourselves_breaks_the_chain(position: int, changes: dict[str, Any]) -> None:
    entries = chain_of()
    touched = entries[position - 1]
    entries[position - 1] = replace(touched, evidence=replace(touched.evidence, **changes))
    assert "the chain does not hold" in why(bundle_of(subject_line(entries), entries))


def test_an_entry_rewritten_with_its_hash_breaks_the_next() -> None:
    entries = chain_of()
    entries[0] = chained("s1-00", "s1-00", 1, opt_in(0, text_shown="Non"), entries[0].recorded_at, GENESIS, "5a" * 16)
    report = checked(bundle_of(subject_line(entries), entries))
    assert [problem.line for problem in report.problems] == [7]  # of the second entry


@pytest.mark.parametrize("left", [[0, 1], [1, 2], [0, 2], [0, 2, 1], [0, 0, 1, 2], []])
def test_entries_left_out_moved_or_repeated_by_ourselves_are_missed(left: list[int]) -> None:
    entries = chain_of()
    file = bundle_of(subject_line(entries), [entries[place] for place in left])
    assert "the chain does not" in why(file)


def test_an_erased_ledger_holds_with_the_receipts_of_before_and_is_said_to_be_erased(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone: dict[str, Any] = dict.fromkeys(PERSONAL)
    before = chain_of()
    after = [replace(e, salt=None, evidence=replace(e.evidence, **gone)) for e in before]
    assert [proof.receipt(e, party(), keys) for e in after] == [proof.receipt(e, party(), keys) for e in before]
    assert run(tmp_path, bundle_of(subject_line(after), after), keys.jwks) == 0
    told = capsys.readouterr().out
    assert told.count("what was shown and by whom is erased") == len(after)
    assert "je veux" not in told


def test_a_state_that_the_entries_do_not_amount_to_is_found() -> None:
    opted_in = subject_line(chain_of(SAID[:1]))
    stopped = chain_of(SAID[:2])
    file = bundle_of(subject_line(stopped, consents=opted_in.consents, suppressions=()), stopped)
    assert why(file) == "the state differs from the fold of the entries"


def test_a_receipt_of_another_entry_is_found() -> None:
    lines = whole().splitlines(keepends=True)
    first, second = json.loads(lines[5]), json.loads(lines[6])
    lines[5] = lines[5].replace(first["receipt"].encode(), second["receipt"].encode())
    assert "the receipt does not match the entry" in why(b"".join(lines))


def test_entries_of_another_subject_are_found() -> None:
    entries = chain_of()
    assert "the entry is another subject's" in why(bundle_of(subject_line(entries, subject_id="s1-01"), entries))


def test_what_is_withheld_keeps_its_place_and_tells_nothing() -> None:
    entries = chain_of((opt_in(0), opt_in(1, sender_id="zenith"), opt_out(2)))
    told = [e if e.evidence.sender_id == "acme" else Withheld(position=e.position, hash=e.hash) for e in entries]
    seen = tuple(c for c in subject_line(entries).consents if c.sender_id == "acme")
    file = bundle_of(subject_line(entries, consents=seen), told)
    report = checked(file)
    assert report.holds
    assert (report.withheld, len(report.entries)) == (1, 2)
    assert b"zenith" not in file
    moved = [told[0], Withheld(position=3, hash=entries[1].hash), told[2]]
    assert "an entry is missing" in why(bundle_of(subject_line(entries), moved))
    other = [told[0], Withheld(position=2, hash=entries[0].hash), told[2]]
    assert "the chain does not hold" in why(bundle_of(subject_line(entries), other))


SECOND = 1 / 60


@pytest.mark.parametrize(
    ("said", "minutes", "stood_on"),
    [
        # the chain is recorded ten minutes late: opt-in at 11, STOP at 12 minutes after noon
        ([opt_in(0)], 10, Standing.NOTHING),
        ([opt_in(0)], 11, Standing.CONSENT),
        ([opt_in(0), stop(20)], 11.5, Standing.CONSENT),
        ([opt_in(0), stop(1)], 11.5, Standing.STOPPED_SINCE),
        ([opt_in(0), stop(1)], 12 + 9 * SECOND, Standing.OVERTAKEN),
        ([opt_in(0), stop(1)], 12 + 11 * SECOND, Standing.NOTHING),
        ([opt_in(0), opt_out(1, sender_id=None)], 13, Standing.NOTHING),
        ([opt_in(0), stop(1, sender_id="zenith")], 13, Standing.CONSENT),
        ([opt_in(0, purpose="loyalty")], 13, Standing.NOTHING),
        ([], 13, Standing.NOTHING),
    ],
)
def test_each_message_of_a_campaign_is_held_against_what_was_known_then_and_is_known_now(
    said: list[Evidence], minutes: float, stood_on: Standing
) -> None:
    entries = chain_of(said)
    report = checked(campaign_of(subject_line(entries), entries, [message(minutes)]))
    assert report.problems == []
    assert report.standings == {stood_on: 1}
    assert [standing for _, standing in report.doubtful] == [stood_on] * (stood_on is not Standing.CONSENT)


def test_a_campaigns_bundle_keeps_no_more_in_memory_than_what_somebody_has_to_look_at() -> None:
    entries = chain_of()
    report = checked(campaign_of(subject_line(entries), entries, [message(minutes) for minutes in range(14, 24)]))
    assert (report.subjects, report.entries, report.doubtful) == ([], [], [])
    assert report.standings.total() == 10


def test_a_message_of_another_campaign_or_of_nobody_is_found() -> None:
    entries = chain_of()
    assert "another campaign" in why(campaign_of(subject_line(entries), entries, [message(14, campaign_id="c2")]))
    *before, last, end = campaign_of(subject_line(entries), entries, [message(14)]).splitlines(keepends=True)
    nobodys = [line for line in before if not line.startswith((b'{"line":"subject"', b'{"consents"', b'{"entry"'))]
    assert "the message has no subject" in why(b"".join([*nobodys, last, end]))


def test_nothing_of_a_bundle_may_follow_its_end() -> None:
    for line in (lines := whole().splitlines(keepends=True)):
        assert "a line follows the end" in why(b"".join([*lines, line]))


def test_the_command_counts_a_campaigns_messages_by_what_they_stood_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = chain_of([opt_in(0), stop(1)])
    good, late, bad = message(11), message(11.5), message(13)
    assert run(tmp_path, campaign_of(subject_line(entries), entries, [late]), keys.jwks) == 0
    assert run(tmp_path, campaign_of(subject_line(entries), entries, [good, late, bad]), keys.jwks) == 3
    told = capsys.readouterr().out
    assert "campaign c1: 3 messages\n" in told
    assert "       1 stood on no consent on record\n" in told
    assert "message m-13 at 2026-03-02T12:13:00+00:00: stood on no consent on record\n" in told


@pytest.mark.parametrize("file", [b"", b"\n", b"{}\n", b"\xff\xfe\n", b"null\n" * 50, b"[" * 100_000 + b"\n"])
def test_what_is_no_bundle_does_not_hold(file: bytes) -> None:
    assert not checked(file).holds


def run(tmp_path: Path, file: bytes, jwks: dict[str, Any] | None = None) -> int:
    (tmp_path / "proof.jsonl").write_bytes(file)
    (tmp_path / "jwks.json").write_text(json.dumps(jwks))
    more = ["--jwks", str(tmp_path / "jwks.json")] if jwks is not None else []
    return verify_bundle.run([str(tmp_path / "proof.jsonl"), *more])


def test_the_command_tells_what_was_said_and_shown_and_what_holds_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, whole(), keys.jwks) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "subject s1-00"
    assert told[1] == (
        "   1 2026-03-02T12:00:00+00:00 opt_in of acme/promotions by shop,"
        ' asked by ACME SAS as "Nos offres par SMS", form checkout version 7,'
        ' shown "Oui, « je veux » vos offres\ufffd"'
    )
    assert told[2] == "   2 2026-03-02T12:01:00+00:00 opt_out of acme/every purpose by mo"
    assert told[-2] == f"signed by key p1, thumbprint {published.thumbprints['p1']}"
    assert told[-1] == "HOLDS"


def test_the_command_says_where_it_does_not_hold_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, whole().replace(b"shop", b"shoq", 1), keys.jwks) == 1
    assert "line 6: the chain does not hold here" in (told := capsys.readouterr().out)
    assert told.endswith("DOES NOT HOLD\n")
    assert run(tmp_path, whole(), strangers.jwks) == 1


def test_without_a_key_set_the_command_says_how_far_that_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, whole()) == 0
    assert "compare the thumbprint" in capsys.readouterr().out


def test_files_that_cannot_be_read_are_said_to_be_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_bundle.run([str(tmp_path / "nowhere.jsonl")]) == 2
    assert run(tmp_path, whole(), {"keys": []}) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_stop_of_every_sender_is_told_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, whole((opt_in(0), stop(1, sender_id=None))), keys.jwks) == 0
    assert "stopped: every sender" in capsys.readouterr().out
