"""A proof bundle as consent-svc writes it; a test says what is in it, or forges it with our own keys."""

from collections.abc import Sequence
from typing import Any

import msgspec

from common.contracts.consent import Purpose
from common.privacy.signing import PublicKeys, SigningKeys
from common.settings import KeyRingSettings
from consent.ledger import rules as ledger
from consent.ledger.chain import GENESIS, Entry, chained
from consent.ledger.rules import Evidence
from consent.proof.bundle import MessageLine, SubjectLine, Withheld, Writer
from consent.proof.receipt import Party
from tests.support.running import SIGNING_RING
from tests.unit.consent.evidences import at, on_page, opt_in, stop

keys = SigningKeys(KeyRingSettings.model_validate(SIGNING_RING))
published = PublicKeys(keys.jwks)
WHO = "s1-00"
SAID = (
    opt_in(0, text_shown="Oui, « je veux » vos offres\n", form_id="checkout", form_version="7"),
    stop(1),
    on_page(2, sale_reference="F-2026-1"),
)


def party(version: int = 1, **changes: Any) -> Party:
    fields: dict[str, Any] = {
        "sender_id": "acme",
        "version": version,
        "in_force_from": at(-60),
        "controller": "acme-group",
        "legal_name": "ACME SAS",
        "brand": "Acme",
        "contact": "contact@acme.example",
        "country": "FR",
        "stop_code": "36111",
        "purposes": (Purpose(id="promotions", wording="Nos offres par SMS"),),
    }
    return Party(**(fields | changes))


PARTIES = (party(), party(2, in_force_from=at(12.5), legal_name="ACME Group"))


def chain_of(said: Sequence[Evidence] = SAID) -> list[Entry]:
    entries: list[Entry] = []
    for position, evidence in enumerate(said, start=1):
        previous = entries[-1].hash if entries else GENESIS
        entries.append(chained(WHO, WHO, position, evidence, at(10 + position), previous, f"{position:032x}"))
    return entries


def subject_line(entries: Sequence[Entry], **changes: Any) -> SubjectLine:
    state = ledger.fold(entry.evidence for entry in entries)
    line = SubjectLine(
        subject_id=WHO,
        number=None,
        entries=len(entries),
        head=entries[-1].hash if entries else GENESIS,
        consents=ledger.consents(state),
        suppressions=ledger.suppressions(state),
    )
    return msgspec.structs.replace(line, **changes)


def message(minutes: float, **changes: Any) -> MessageLine:
    """One of the campaign's, handed off `minutes` after noon."""
    fields: dict[str, Any] = {
        "message_id": f"m-{minutes}",
        "campaign_id": "c1",
        "sender_id": "acme",
        "purpose": "promotions",
        "handed_off_at": at(minutes),
    }
    return MessageLine(**(fields | changes))


def campaign_of(line: SubjectLine, told: Sequence[Entry | Withheld], messages: Sequence[MessageLine]) -> bytes:
    writer = Writer(keys, at(60), PARTIES)
    return writer.opening("c1") + writer.subject(line, told, messages) + writer.end()


def bundle_of(line: SubjectLine, told: Sequence[Entry | Withheld], by: SigningKeys = keys) -> bytes:
    writer = Writer(by, at(60), PARTIES)
    return writer.opening() + writer.subject(line, told) + writer.end()


def whole(said: Sequence[Evidence] = SAID) -> bytes:
    entries = chain_of(said)
    return bundle_of(subject_line(entries), entries)
