"""Judge two organisations on one short code by the operator's own log: whom a STOP stopped, and under which name what
left. Pure.

A STOP stops the brand of the last message to the person on the code; every brand of the code if none wrote, and for
STOP TOUT. A message may be on its way while a STOP arrives: then only those brands have to be stopped that every order
of the two would stop.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

Fact = Mapping[str, Any]  # JSON: a line of the simulator's log, or an item of the API

MARKETING, SERVICE = "marketing", "service"
ON_ITS_WAY = timedelta(seconds=5)  # from the hand-off to the operator's log
EVERYONE = re.compile(r"\btout\b", re.IGNORECASE)
# words of this file's own, none of Placet's lists
ADVERT = re.compile(r"sold|promo|offre|remise|r[ée]duction|profitez|gratuit|-\s?\d+\s?%|\d\s?€", re.IGNORECASE)
LINK = re.compile(r"https?://\S+")
MESSAGE_TIMES = ("requested_at", "decided_at", "handed_off_at", "receipt_at")
FICTIONAL_MOBILE = re.compile(r"\+3363998\d{4}")


@dataclass(frozen=True, slots=True)
class Brand:
    """A brand: its name in texts, its OADC, and the people who consented to the brand, as E.164."""

    name: str
    oadc: str
    consented: frozenset[str]


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt of the hostile caller, and the answer."""

    tried: str
    answered: str
    refused: bool


@dataclass(frozen=True, slots=True)
class Check:
    """A checked promise, which holds without `offenders`."""

    promise: str
    offenders: int
    detail: str = ""

    @property
    def holds(self) -> bool:
        return self.offenders == 0


@dataclass(frozen=True, slots=True)
class Other:
    """A brand that a person did not stop, and whether the brand wrote to the person after `since`, the enforcement."""

    number: str
    brand: Brand
    since: datetime
    wrote: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """A STOP, the OADCs that the STOP has to stop, and since when Placet calls the STOP enforced, if at all."""

    reply_id: str
    number: str
    oadcs: frozenset[str]
    enforced_at: datetime | None


def stops(
    log: Sequence[Fact], enforced: Mapping[str, datetime], oadcs: Collection[str], certain: Collection[str] = ()
) -> list[Stop]:
    """Return every STOP of the log.

    `enforced`: by the operator's id of the reply. `oadcs`: of the code. `certain`: people to whom nothing was on its
    way.
    """
    sent: dict[str, list[tuple[datetime, str]]] = defaultdict(list)
    for line in log:
        if line["kind"] != "submit" or line["status"] != "accepted":
            continue  # nobody has read what the operator rejected
        if line["category"] == MARKETING and line["from"] in oadcs:
            sent[line["to"]].append((at(line), line["from"]))
    ended = {line["id"]: at(line) + ON_ITS_WAY for line in log if line["kind"] == "reply_acknowledged"}
    found = []
    for line in log:
        if line["kind"] == "reply":
            number, began = line["from"], datetime.fromisoformat(line["sent_at"])
            until = began if number in certain else ended.get(line["id"], began)
            meant = _meant(line["text"], sent[number], began, until, oadcs)
            found.append(Stop(line["id"], number, meant, enforced.get(line["id"])))
    return found


def _meant(
    text: str, sent: Iterable[tuple[datetime, str]], began: datetime, until: datetime, oadcs: Collection[str]
) -> frozenset[str]:
    if EVERYONE.search(text):
        return frozenset(oadcs)
    before = max((one for one in sent if one[0] < began), default=None)
    meant = frozenset(oadcs) if before is None else frozenset((before[1],))
    for instant, oadc in sent:
        if began <= instant <= until:
            meant &= {oadc}
    return meant


def after_enforced(marketing: Iterable[Fact], found: Iterable[Stop]) -> Check:
    """Check promise 1: after an enforced opt-out, no forbidden hand-off begins."""
    since: dict[tuple[str, str], datetime] = {}
    for stop in found:
        if stop.enforced_at is not None:
            for oadc in stop.oadcs:
                person = (stop.number, oadc)
                since[person] = min(stop.enforced_at, since.get(person, stop.enforced_at))
    late = sum((s["to"], s["from"]) in since and at(s) > since[s["to"], s["from"]] for s in marketing)
    return Check("messages of a stopped brand after its STOP was enforced", late, f"{len(since)} stopped")


def others(
    certain: Collection[str], found: Iterable[Stop], submits: Iterable[Fact], brands: Sequence[Brand]
) -> list[Other]:
    """Return the brands that each person of `certain` consented to and did not stop.

    `certain`: people who stopped one brand, with no message to them in doubt. A message that perhaps left widens a STOP
    to its brand (ADR-0069), although the operator may never have had the message.
    """
    stopped: dict[str, list[Stop]] = defaultdict(list)
    for stop in found:
        stopped[stop.number].append(stop)
    last: dict[tuple[str, str], datetime] = {}
    for s in submits:
        if s["category"] == MARKETING:
            last[s["to"], s["from"]] = at(s)
    left = []
    for number in certain:
        match stopped[number]:
            case [Stop(oadcs=oadcs, enforced_at=datetime() as since)]:
                for brand in brands:
                    if brand.oadc not in oadcs and number in brand.consented:
                        wrote = last.get((number, brand.oadc), since) > since
                        left.append(Other(number, brand, since, wrote))
    return left


def kept_from_the_other(left: Sequence[Other]) -> Check:
    """Check that a STOP stops no other brand. `left`: see `others`."""
    kept = sum(not other.wrote for other in left)
    return Check("people cut off from a brand that they did not stop", kept + (not left), f"{len(left)} hear of it")


def is_answered(message: Fact) -> bool:
    """Return whether the operator's answer to a message's submit is known. `message`: of dispatch-svc's API.

    Where a crash has lost the answer, a STOP stops the brand of that message too (ADR-0069), and `handed_off_at` stays
    null: a DLR may have told of the message since, and consent-svc have decided on the STOP before.
    """
    return message["status"] in ("accepted", "rejected") and message["handed_off_at"] is not None


def account(other: Other, messages: Sequence[Fact], moments: Sequence[Fact], names: Mapping[str, str]) -> list[str]:
    """Return lines that explain why a person did not hear of a brand: the brand's messages, and the person's timeline.

    `messages`, `moments`: of the APIs, newest first. `names`: of the campaigns. No line has the number.
    """
    person = next((each["subject_id"] for each in (*messages, *moments) if each["subject_id"]), "a person")
    lines = [f"{person} is cut off from {other.brand.name}: did not stop it, and stopped another at {other.since}"]
    for each in reversed(messages):
        what = names.get(each["campaign_id"]) or each["category"]
        times = [f"{name} {each[name]}" for name in MESSAGE_TIMES if each[name]]
        lines.append(f"    {what}: {', '.join([each['status'], *each['reasons']])}; {', '.join(times)}")
    lines += [f"    {each['kind']} at {each['at']}: {each['detail']}" for each in reversed(moments)]
    return lines


def strangers_named(submits: Sequence[Fact], brands: Sequence[Brand], in_doubt: int) -> Check:
    """Check that an answer names no brand that never wrote to the person.

    `in_doubt`: messages which may have left or not, as a crash leaves them.
    """
    first: dict[tuple[str, str], datetime] = {}
    for s in submits:
        if s["category"] != SERVICE:
            first.setdefault((s["to"], s["from"]), at(s))
    named = strangers = 0
    for s in submits:
        for brand in brands if s["category"] == SERVICE else ():
            if brand.name in s["text"]:
                wrote_at = first.get((s["to"], brand.oadc))
                named += 1
                strangers += wrote_at is None or wrote_at > at(s) + ON_ITS_WAY
    return Check("answers that name a brand that never wrote", max(0, strangers - in_doubt), f"{named} names")


def under_another_name(submits: Iterable[Fact], known: Mapping[str, str], brands: Sequence[Brand]) -> Check:
    """Check that every message leaves under its sender's own name. `known`: the OADC by reference.

    A message without a known reference is Placet's own answer to a person, of one of the brands.
    """
    oadcs = {brand.oadc for brand in brands}
    wrong = 0
    for s in submits:
        own = {known[s["reference"]]} if s["reference"] in known else oadcs if s["category"] == SERVICE else set()
        others = [brand for brand in brands if brand.oadc != s["from"]]
        wrong += s["from"] not in own or (
            s["category"] == MARKETING and any(brand.name in s["text"] for brand in others)
        )
    return Check("messages under another's name, or that nobody asked for", wrong)


def adverts_elsewhere(submits: Iterable[Fact]) -> Check:
    """Check that no other message advertises. A link counts for nothing: its token has any letters."""
    adverts = sum(s["category"] != MARKETING and bool(ADVERT.search(LINK.sub("", s["text"]))) for s in submits)
    return Check("adverts outside the marketing lane", adverts)


def abroad(submits: Iterable[Fact]) -> Check:
    return Check("messages abroad", sum(not FICTIONAL_MOBILE.fullmatch(s["to"]) for s in submits))


def too_many(submits: Iterable[Fact], limit: int) -> Check:
    """Check that no number gets more codes and notices than its limit allows."""
    counts = Counter(s["to"] for s in submits if s["category"] == "transactional")
    over = sum(max(0, n - limit) for n in counts.values())
    return Check("messages over the limit of a number", over, f"at most {max(counts.values(), default=0)} to one")


def hostile_texts(submits: Iterable[Fact], mark: str) -> Check:
    """Check that no text of the hostile caller left. `mark`: a word of each such text and of no other."""
    return Check("texts of the hostile caller that left", sum(mark in s["text"].upper() for s in submits))


def refused(attempts: Sequence[Attempt]) -> Check:
    let_in = sum(not attempt.refused for attempt in attempts)
    return Check("attempts of the hostile caller not refused", let_in + (not attempts), f"{len(attempts)} attempts")


def at(line: Fact) -> datetime:
    return datetime.fromisoformat(line["at"])
