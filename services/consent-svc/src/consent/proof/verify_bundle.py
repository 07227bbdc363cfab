"""Check a bundle offline: `python -m consent verify-bundle FILE [--jwks FILE]`.

Exit status: 0 where everything holds, 1 where a check fails, 2 where the files cannot be read, 3 where everything holds
and a message stood on no consent.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.privacy.signing import PublicKeys
from consent.ledger.chain import Entry
from consent.proof import bundle
from consent.proof import receipt as proof
from consent.proof.bundle import LINE_BYTES, Report, Standing
from consent.proof.receipt import Party

MEANING = {
    Standing.CONSENT: "stood on a consent on record",
    Standing.STOPPED_SINCE: "stood on a consent on record, whose withdrawal we learned of later",
    Standing.OVERTAKEN: "stood on a consent whose withdrawal was recorded in the seconds before",
    Standing.NOTHING: "stood on no consent on record",
}


def run(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m consent verify-bundle", description="Check a proof bundle, offline."
    )
    parser.add_argument("file", type=Path, help="the bundle")
    parser.add_argument("--jwks", type=Path, help="the key set of /.well-known/jwks.json, from a trusted source")
    told = parser.parse_args(arguments)
    try:
        trusted = PublicKeys(json.loads(told.jwks.read_bytes())) if told.jwks else None
        report = bundle.check(_lines(told.file), trusted)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"cannot be read: {error}\n")
        return 2
    sys.stdout.writelines(f"{_printable(line)}\n" for line in _told(report, trusted))
    if not report.holds:
        return 1
    return 3 if report.standings[Standing.NOTHING] else 0


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines. A line longer than LINE_BYTES comes in pieces, and fails."""
    with path.open("rb") as file:
        while raw := file.readline(LINE_BYTES):
            yield raw


def _told(report: Report, trusted: PublicKeys | None) -> Iterator[str]:
    if report.campaign_id is not None:
        yield f"campaign {report.campaign_id}: {report.standings.total()} messages"
        yield from (f"{report.standings[standing]:>8} {MEANING[standing]}" for standing in Standing)
    for message, standing in report.doubtful:
        yield f"message {message.message_id} at {message.handed_off_at.isoformat()}: {MEANING[standing]}"
    for subject in report.subjects:
        yield f"subject {subject.subject_id}" + (f", number {subject.number}" if subject.number else "")
    yield from (_entry(entry, proof.in_force(report.senders, entry)) for entry in report.entries)
    if report.withheld:
        yield f"{report.withheld} entries are withheld: their places can be checked, not their content"
    for subject in report.subjects:
        for consent in subject.consents:
            yield f"now {consent.state}: {consent.sender_id}/{consent.purpose}, by {consent.evidence_id}"
        for suppression in subject.suppressions:
            yield f"stopped: {suppression.sender_id or 'every sender'}, since {suppression.since.isoformat()}"
    yield from _keys(report, trusted)
    for problem in report.problems:
        yield f"line {problem.line}: {problem.why}"
    yield "HOLDS" if report.holds else "DOES NOT HOLD"


def _entry(entry: Entry, sender: Party | None) -> str:
    said = entry.evidence
    told = f"{entry.position:>4} {said.occurred_at.isoformat()} {said.kind} of"
    told += f" {said.sender_id or 'every sender'}/{said.purpose or 'every purpose'} by {said.source}"
    if sender and (wording := sender.wording(said.purpose)):
        told += f', asked by {sender.legal_name} as "{wording}"'
    if said.corrects:
        told += (
            f", which puts {said.corrects} right" if said.kind == "correction" else f", which annuls {said.corrects}"
        )
    if entry.erased:
        return told + ", what was shown and by whom is erased"
    if said.form_id:
        told += f", form {said.form_id} version {said.form_version}"
    return told + (f', shown "{said.text_shown}"' if said.text_shown else "")


def _printable(line: str) -> str:
    """Replace unprintable characters: the file must not steer the reader's terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in line)


def _keys(report: Report, trusted: PublicKeys | None) -> Iterator[str]:
    for kid in sorted(report.signed_by):
        keys = trusted or PublicKeys(report.jwks or {})
        yield f"signed by key {kid}, thumbprint {keys.thumbprints[kid]}"
    if trusted is None:
        yield "checked against the keys in the file: compare the thumbprint with the published key's, or give --jwks"
