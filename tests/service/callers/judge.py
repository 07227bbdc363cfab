"""Judge an operator's log: by the test's own list of adverts, and by a record of the people's acts. Pure.

The judge shares no code and no list with the services. Of each message in the log:

    advert     in the marketing lane, to nobody who had stopped its sender and has not come back. In another lane none
               of the caller's texts is an advert, unless the caller gave a reason to override, and an audit names the
               message; Placet's words with the caller's wording of a purpose have no rebate, price or link, and nothing
               at all that advertises to a person who had stopped
    names      the OADC is one of the names the test gave to a sender. An OADC of another organisation carries none of
               the caller's texts; no text of the caller's senders has another organisation's brand, but an answer on a
               shared code to a person who had that brand's messages, or came back to it
    limits     no window holds more messages than a limit allows
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

PAGE = "https://placet.example"
MARK = "mlr"  # in each text that the hostile caller writes

# stems of the adverts that the test writes: of letters alone, and of letters, digits and signs
WORDS = ("soldes", "promo", "destockage", "braderie", "cadeau", "ventesflash")
SIGNS = ("50%", "9,90", "bazar.example")

_LOOKS_LIKE = str.maketrans("0135@$€" + "асеорѕіхАСЕОРЅІХ", "oiesase" + "aceopsixaceopsix")


def letters(text: str) -> str:
    """Return the letters that a person reads, without spaces, accents and disguise."""
    folded = unicodedata.normalize("NFKD", text.translate(_LOOKS_LIKE)).casefold()
    return "".join(char for char in folded if "a" <= char <= "z")


def is_advert(text: str) -> bool:
    """Return whether the text is an advert by the test's own list."""
    return has_sign(text) or any(word in letters(_without_pages(text)) for word in WORDS)


def has_sign(text: str) -> bool:
    """Return whether the text has a rebate, a price or a link of the test's own list."""
    shown = "".join(_without_pages(text).casefold().split())
    return any(sign in shown for sign in SIGNS)


def _without_pages(text: str) -> str:
    return re.sub(rf"{re.escape(PAGE)}\S+", "", text)


class Sent(NamedTuple):
    """A message in the operator's log."""

    at: datetime
    to: str
    oadc: str
    code: str
    category: str
    text: str
    reference: str

    @property
    def is_callers(self) -> bool:
        """Return whether the hostile caller wrote the text."""
        return MARK in self.text


class Stop(NamedTuple):
    """A person's STOP. `at`: when the person sent it; `since`: when its enforcement was known. `senders`: None, all."""

    at: datetime
    since: datetime
    senders: frozenset[str] | None


class Return(NamedTuple):
    """A person's own START, OUI or press on the page."""

    at: datetime
    senders: frozenset[str]


class Limit(NamedTuple):
    """At most so many messages within a window: to a number, or of an organisation. `lanes`: the lanes counted."""

    name: str
    most: int
    window: timedelta
    per: str  # "number", "organisation"
    lanes: frozenset[str]


@dataclass
class Record:
    """The test's knowledge of names, people and overrides.

    `senders`: sender by OADC. `ours`: the hostile caller's senders. `brands`: the brand of each sender of another
    organisation, in letters. `protected`: names that nobody may have, in letters.
    """

    senders: dict[str, str]
    ours: set[str]
    brands: Mapping[str, str]
    protected: Collection[str]
    stops: dict[str, list[Stop]] = field(default_factory=lambda: defaultdict(list))
    returns: dict[str, list[Return]] = field(default_factory=lambda: defaultdict(list))
    overridden: set[str] = field(default_factory=set)
    audited: set[str] | None = None  # not read yet
    limits: Sequence[Limit] = ()

    def stopped(self, number: str, sender: str, at: datetime) -> bool:
        """Return whether this person had stopped this sender by then, and had not come back."""
        return any(
            stop.since <= at
            and (stop.senders is None or sender in stop.senders)
            and not any(stop.at < back.at <= at and sender in back.senders for back in self.returns[number])
            for stop in self.stops[number]
        )


def broken(log: Sequence[Sent], record: Record) -> list[str]:
    """Return each promise that the log breaks, with the message."""
    return [*_adverts(log, record), *_names(log, record), *_limits(log, record)]


def _adverts(log: Sequence[Sent], record: Record) -> Iterator[str]:
    for sent in log:
        if not is_advert(sent.text):
            continue
        stopped = record.stopped(sent.to, record.senders.get(sent.oadc, ""), sent.at)
        if sent.category == "marketing" or not sent.is_callers:
            if stopped:
                yield f"an advert to a person who had stopped: {sent}"
            elif sent.category != "marketing" and has_sign(sent.text):
                yield f"an advert in another lane: {sent}"
        elif sent.reference not in record.overridden:
            yield f"an advert in another lane: {sent}"
        elif record.audited is not None and sent.reference not in record.audited:
            yield f"an override that no audit has: {sent}"


def _names(log: Sequence[Sent], record: Record) -> Iterator[str]:
    for sent in log:
        sender = record.senders.get(sent.oadc)
        if sender is None:
            yield f"an OADC of no sender: {sent}"
        elif sent.is_callers and sender not in record.ours:
            yield f"the caller's text under a stranger's OADC: {sent}"
        read = letters(sent.text)
        if any(read.startswith(name) for name in record.protected):
            yield f"a protected name: {sent}"
        for owner, brand in record.brands.items():
            if sender in record.ours and brand in read and (sent.is_callers or not _wrote(log, record, owner, sent)):
                yield f"a stranger's brand: {sent}"


def _wrote(log: Sequence[Sent], record: Record, sender: str, answer: Sent) -> bool:
    """Return whether this sender had written to the person on the code of the answer, or the person took it back."""
    return any(
        record.senders.get(one.oadc) == sender and (one.to, one.code) == (answer.to, answer.code)
        for one in log
        if one.at < answer.at
    ) or any(back.at < answer.at and sender in back.senders for back in record.returns[answer.to])


def _limits(log: Sequence[Sent], record: Record) -> Iterator[str]:
    for limit in record.limits:
        counted: dict[str, list[datetime]] = defaultdict(list)
        for sent in log:
            if sent.is_callers and sent.category in limit.lanes:
                counted[sent.to if limit.per == "number" else ""].append(sent.at)
        for times in counted.values():
            most = max(sum(first <= at < first + limit.window for at in times) for first in times)
            if most > limit.most:
                yield f"{most} messages where {limit.name} allows {limit.most}"
