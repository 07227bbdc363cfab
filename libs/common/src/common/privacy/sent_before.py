"""Let a reviewer ask dispatch-svc for the messages that a person was sent before a text in review.

inbound-svc encrypts the person, the code and the arrival of the text (`ticket`); dispatch-svc answers nothing else. So
a reviewer reads the messages before a text of the queue, and neither a later message nor another person's.
"""

from datetime import datetime, timedelta

import msgspec

from common.keyring import FieldKeys, Unreadable

GOOD_FOR = timedelta(hours=1)  # a reviewer lists the queue anew meanwhile; an erasure takes the messages at once
CONTEXT = "sent-before"


class Before(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The text in review: whose, to which code, and when the text arrived."""

    mo_id: str
    subject_id: str
    short_code: str
    received_at: datetime
    good_until: datetime


def ticket(keys: FieldKeys, before: Before) -> str:
    return keys.seal(msgspec.json.encode(before).decode(), CONTEXT)


def read(keys: FieldKeys, said: str, now: datetime) -> Before:
    """Return the text that a ticket names. Raises Unreadable for a forged ticket, and for an old one."""
    try:
        found = msgspec.json.decode(keys.unseal(said, CONTEXT), type=Before)
    except msgspec.DecodeError as error:
        raise Unreadable("the ticket names no text") from error
    if found.good_until < now:
        raise Unreadable("the ticket is too old")
    return found
