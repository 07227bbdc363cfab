"""Decide for each recipient of an expansion: a request, a denial, or a wait."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience.draw import lot
from campaign.campaigns import store as campaigns
from campaign.campaigns.campaign import Campaign
from campaign.campaigns.recipients import ALL_WAIT
from campaign.links.links import Tokens
from campaign.message import text as texts
from campaign.message.short_link import any_token
from campaign.message.text import Missing, TextProblem
from campaign.message.variants import HOLDOUT, OWN, REST, Trial, winner
from campaign.message.wording import Wording
from campaign.planning import store
from campaign.planning.store import Recipient
from campaign.preflight.forecast import TOO_LATE
from campaign.results import results
from campaign.schedule.lifecycle import ends_by, messages_of
from campaign.schedule.timing import Pace, Timetable
from campaign.senders.store import Sender
from common.contracts.campaign import REQUESTS_TOGETHER, MessageRequested, MessagesRequested, Request
from common.kafka.broker import partitions_of
from common.keyring import FieldKeys, LinkKeys, Unreadable
from common.law import Policy
from common.sms.msisdn import territory_of
from common.sms.subject_id import InnerId

IN_ONE_GO = 250  # recipients written before other tasks get the loop
EVENT_CHARS = 200_000  # of the encrypted texts of an event: its record stays far below Kafka's limit

_attributes = msgspec.json.Decoder(dict[str, str])


class Written(msgspec.Struct, frozen=True, gc=False):
    """A recipient's message. `number`: encrypted."""

    subject_id: str
    number: str
    text: str
    region: str | None
    tokens: Tokens | None


@dataclass(frozen=True)
class Asking:
    """A campaign whose recipients are being requested."""

    campaign: Campaign
    campaign_id: str  # saves a lookup for each recipient
    message_of: Callable[[InnerId], str]
    by_person: bool
    linked: bool  # a text has links, or a stop link
    sender: Sender
    wordings: Mapping[str, Wording]
    unlinkable: Mapping[str, str]  # texts that cannot have their links, with the reason
    trial: Trial | None
    chosen_at: datetime | None
    timetable: Timetable
    field_keys: FieldKeys
    now: datetime
    problems: dict[str, TextProblem | None] = field(default_factory=dict)  # by text

    @property
    def may_wait(self) -> bool:
        all_wait = self.campaign.cursor == ALL_WAIT
        return all_wait or self.by_person or (self.trial is not None and self.trial.winner is not None)

    def variant_of(self, subject_id: str) -> str:
        """Return the recipient's text, HOLDOUT, or REST while the winner is unknown."""
        if self.trial is None:
            return OWN
        found = self.trial.of(lot(self.campaign_id, self.field_keys.inner(subject_id), "variant"))
        return self.campaign.winner if found == REST and self.campaign.winner is not None else found

    def of(self, recipient: Recipient, tokens: Tokens | None) -> Written | str | datetime:
        """Return the recipient's message, the reason for a denial, or until when the recipient waits."""
        subject_id, number, held = recipient.subject_id, recipient.number, recipient.attributes
        if number is None or held is None:
            return "contact_gone"
        variant = OWN if self.trial is None else self.variant_of(subject_id)
        if variant == HOLDOUT:
            return HOLDOUT
        if variant == REST:
            return store.FOR_WINNER
        attributes: Mapping[str, str] = _attributes.decode(held)
        if self.by_person:
            due = self._due(subject_id, number, attributes)
            if due is None:
                return TOO_LATE
            if due > self.now:
                return due
        return self._write(subject_id, number, attributes, variant, tokens)

    def again(self, recipient: Recipient, tokens: Tokens | None) -> Written | None:
        """Return the message of a recipient requested before, or `None` if no text can be written any more."""
        if recipient.number is None or recipient.attributes is None:
            return None
        attributes = _attributes.decode(recipient.attributes)
        found = self._write(recipient.subject_id, recipient.number, attributes, recipient.variant or OWN, tokens)
        return found if isinstance(found, Written) else None

    def _write(
        self, subject_id: str, number: str, attributes: Mapping[str, str], variant: str, tokens: Tokens | None
    ) -> Written | str:
        try:
            text = self.wordings[variant].render(attributes, self.sender.stop_code, tokens or any_token)
        except Missing as missing:
            return f"missing:{missing.name}"
        if (reason := self.unlinkable.get(variant)) is not None:
            return reason
        if (problem := self._problem(text)) is not None:
            return problem.value
        region = self.timetable.region(attributes)
        return Written(subject_id, number, text, region, tokens)

    def _problem(self, text: str) -> TextProblem | None:
        if text not in self.problems:
            sender = self.sender
            self.problems[text] = texts.refused(text, sender.stop_code, sender.stop_added, stop_page=sender.stop_page)
        return self.problems[text]

    def together(self, written: Sequence[Written], partitions: int) -> list[MessagesRequested]:
        """Return the requests as events, each of one partition of people."""
        of_each: dict[int, list[Request]] = defaultdict(list)
        homes = partitions_of([each.subject_id.encode() for each in written], partitions)
        for each, (message_id, text), home in zip(written, self._sealed(written), homes, strict=True):
            of_each[home].append(
                Request(
                    message_id=message_id,
                    subject_id=each.subject_id,
                    number=each.number,
                    text=text,
                    region=each.region,
                )
            )
        return [self._event(requests) for some in of_each.values() for requests in cut(some)]

    def _sealed(self, written: Sequence[Written]) -> list[tuple[str, str]]:
        """Return the id and the encrypted text of each message, worked out together. Raises UnknownOuterKey."""
        keys, people = self.field_keys, [each.subject_id for each in written]
        inners = [inner or keys.inner(who) for inner, who in zip(keys.inners(people), people, strict=True)]
        ids = [*map(self.message_of, inners)]
        texts = [(each.text, f"text:{message_id}") for each, message_id in zip(written, ids, strict=True)]
        return [*zip(ids, keys.seal_all(texts), strict=True)]

    def _event(self, requests: Sequence[Request]) -> MessagesRequested:
        return MessagesRequested(
            campaign_id=self.campaign_id,
            sender_id=self.campaign.sender_id,
            purpose=self.campaign.purpose,
            requested_at=self.now,
            send_before=self.timetable.ends_by,
            requests=tuple(requests),
        )

    def requests(self, written: Sequence[Written]) -> list[MessageRequested]:
        """Return the requests, encrypted together: a third faster."""
        sender_id, purpose, send_before = self.campaign.sender_id, self.campaign.purpose, self.timetable.ends_by
        return [
            MessageRequested(
                message_id=message_id,
                campaign_id=self.campaign_id,
                sender_id=sender_id,
                purpose=purpose,
                category="marketing",
                subject_id=each.subject_id,
                number=each.number,
                text=text,
                requested_at=self.now,
                send_before=send_before,
                region=each.region,
            )
            for each, (message_id, text) in zip(written, self._sealed(written), strict=True)
        ]

    def _due(self, subject_id: str, sealed: str, attributes: Mapping[str, str]) -> datetime | None:
        try:
            number = self.field_keys.unseal(sealed, f"number:{subject_id}")
        except Unreadable:
            return self.now  # the gate denies an unreadable number
        place = self.timetable.place(territory_of(number), attributes)
        return self.timetable.due(place, lot(self.campaign_id, self.field_keys.inner(subject_id), "when"), self.now)


def cut(requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
    """Yield the requests of a partition, as many together as an event may hold."""
    begin, chars = 0, 0
    for place, each in enumerate(requests):
        chars += len(each.text)
        if place > begin and (place - begin == REQUESTS_TOGETHER or chars > EVENT_CHARS):
            yield requests[begin:place]
            begin, chars = place, len(each.text)
    if requests:
        yield requests[begin:]


@dataclass
class Chunk:
    """The decisions on some recipients, at most `room` requests."""

    asking: Asking
    link_keys: LinkKeys
    room: int
    cursor: str
    asked: int = 0
    reached: int = 0  # recipients after the cursor
    full: bool = False  # more recipients may be due
    denied: dict[str, str] = field(default_factory=dict)
    variants: dict[str, str] = field(default_factory=dict)
    waits: dict[str, datetime | None] = field(default_factory=dict)

    async def take(self, page: Sequence[Recipient], *, waited: bool = False) -> list[Written]:
        """Return the messages to request, up to `room`."""
        written = []
        for place, each in enumerate(page):
            if not place % IN_ONE_GO:
                await asyncio.sleep(0)
            subject_id = each.subject_id
            if waited:
                self.waits[subject_id] = None
            tokens = self._tokens(subject_id) if self.asking.linked else None
            asked = self.asking.of(each, tokens)
            if isinstance(asked, Written):
                if self.asked == self.room:
                    self.full = True
                    break
                self.asked += 1
                written.append(asked)
                if self.asking.trial is not None:
                    self.variants[subject_id] = self.asking.variant_of(subject_id)
            elif isinstance(asked, datetime):
                self.waits[subject_id] = asked
            else:
                self.denied[subject_id] = asked
            if not waited:
                self.cursor, self.reached = subject_id, self.reached + 1
        return written

    def _tokens(self, subject_id: str) -> Tokens:
        asking = self.asking
        return Tokens(self.link_keys, asking.campaign_id, subject_id, asking.campaign.sender_id, asking.now)


async def asking_of(
    tx: AsyncConnection, campaign: Campaign, sender: Sender, gate: Policy, field_keys: FieldKeys, now: datetime
) -> Asking:
    """Return the campaign with its winner, if due. `gate`: the policy at hand-off."""
    starts_at, trial = campaign.scheduled_start, campaign.trial
    ends = ends_by(starts_at, campaign.send_before)
    timetable = Timetable(campaign.timing, sender.country, starts_at, campaign.at, ends, gate)
    if trial is not None and trial.winner is not None and campaign.winner is None:
        campaign = await _choose(tx, campaign, trial, timetable, now)
    choice, wordings = campaign.choice, campaign.wordings
    hostless = {n: TextProblem.LINK_HOST_MISSING for n, w in wordings.items() if w.targets and not sender.link_host}
    pageless = {
        n: TextProblem.STOP_PAGE_MISSING for n, w in wordings.items() if w.stops_by_link and not sender.stop_page
    }
    return Asking(
        campaign=campaign,
        campaign_id=campaign.campaign_id,
        message_of=messages_of(campaign.campaign_id, starts_at),
        by_person=campaign.timing.by_person,
        linked=any(wording.targets or wording.stops_by_link for wording in wordings.values()),
        sender=sender,
        wordings=wordings,
        unlinkable={name: reason.value for name, reason in (pageless | hostless).items()},
        trial=trial,
        chosen_at=choice.at if choice is not None else None,
        timetable=timetable,
        field_keys=field_keys,
        now=now,
    )


async def _choose(
    tx: AsyncConnection, campaign: Campaign, trial: Trial, timetable: Timetable, now: datetime
) -> Campaign:
    """Return the campaign with its winner if due, else with the updated choice."""
    known = choice = campaign.choice
    if choice is None or choice.waits_for == "first_groups":
        rest = Pace.of(timetable.timing).takes(campaign.tallies.audience * trial.rest_percent // 100)
        choice = trial.choice(timetable, await store.first_groups(tx, campaign), rest, now)
    best = None
    if now >= choice.at:
        best, because = winner(trial, await results.by_variant(tx, campaign))
        choice = choice.model_copy(update={"at": now, "waits_for": None, "because": because})
    if choice == known:
        return campaign
    await campaigns.set_choice(tx, campaign.campaign_id, choice, best)
    return await campaigns.read_campaign(tx, campaign.campaign_id)
