"""HTTP: send a campaign's message to a few numbers before the audience.

The gate treats a test as any message: testers must have consented, with proof. The text is the audience's to the
letter, except for links.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from campaign.audience import store as audience
from campaign.audience.reach import Standing, denials
from campaign.campaigns.access import CampaignUnreadable
from campaign.campaigns.campaign import Campaign
from campaign.links.links import Tokens
from campaign.message import text as texts
from campaign.message.variants import OWN
from campaign.message.wording import Wording
from campaign.message.writing import Attribute, Length, Value, length_of
from campaign.preflight import api as pre_flight
from campaign.preflight import store
from campaign.preflight.forecast import of_place
from campaign.preflight.store import TestSend
from campaign.schedule.lifecycle import Status
from campaign.schedule.timing import timetable
from campaign.senders.caller import of_caller
from campaign.senders.store import Sender
from common.contracts import CAMPAIGN_REQUESTS
from common.contracts.campaign import MessageRequested
from common.kafka import outbox
from common.service import Resources
from common.sms.message_id import message_id
from common.sms.msisdn import Msisdn, NumberRefused, applying, parse
from common.web.auth import Caller, require
from common.web.fields import NumberCountry, Storable
from common.web.idempotency import Key, claim, derived_id, fingerprint_of, keyed, same
from common.web.openapi import refuses
from common.web.pagination import LIMIT, Cursor, Limit, Page, next_of, position
from common.web.problems import Conflict, Invalid, Reason

router = APIRouter(prefix="/v1", tags=["test sends"])

MOST_NUMBERS = 5
MOST_A_DAY = 50  # of a campaign
KEPT = timedelta(hours=1)  # a test tomorrow is too late

Held = Annotated[Resources[Any], Depends(of_caller)]
Author = Annotated[Caller, Depends(require("campaign:write"))]
Reader = Annotated[Caller, Depends(require("campaign:read"))]

_attributes = msgspec.json.Decoder(dict[str, str])
_standing = msgspec.json.Decoder(Standing)


class TooManyTests(Conflict):
    """The campaign has had as many test sends today as its limit allows.

    Wait for the next day.
    """

    slug, title = "too-many-tests", "The campaign's daily limit of tests is reached"


class NewTest(BaseModel):
    """The recipients. A contact of the sender gets the text with the contact's own attributes."""

    model_config = ConfigDict(extra="forbid")

    numbers: list[Annotated[Storable, Field(min_length=1, max_length=64)]] = Field(
        min_length=1,
        max_length=MOST_NUMBERS,
        description="The mobile numbers to send to, up to five, in any usual notation.",
    )
    country: NumberCountry = None
    variant: Annotated[str, Field(pattern=r"^[a-z]$")] = Field(
        OWN, description="The variant of an A/B test; `a` is the campaign's own text."
    )
    attributes: dict[Attribute, Value] = Field(
        {}, max_length=100, description="Attributes for a number without a contact."
    )


class Test(BaseModel):
    """A test message. `subject_id`: the person's id with the sender's controller."""

    __test__ = False

    message_id: str
    subject_id: str
    variant: str
    asked_by: str = Field(description="The person who requested the test, by `sub` of the token.")
    asked_at: datetime


class TestSent(Test):
    """A test message with its text. `subject_id`: the person's id with the sender's controller."""

    text: str = Field(description="The text as rendered for this person.")
    length: Length
    against: list[str] = Field(
        description="The reasons for a denial by the gate, from campaign-svc's copy of consents; empty: the gate"
        " would permit the message."
    )


class TestsSent(BaseModel):
    """The test messages of a request."""

    __test__ = False

    items: list[TestSent] = Field(description="A message for each number, in request order.")


@router.post(
    "/campaigns/{campaign_id}/test-sends",
    operation_id="test_sends.create",
    status_code=202,
    response_model=TestsSent,
    responses=refuses(CampaignUnreadable, Conflict, TooManyTests),
)
async def send_test(
    campaign_id: Storable,
    body: NewTest,
    request: Request,
    held: Held,
    caller: Author,
    key: Key = None,
) -> Response:
    """Request the message for all of these numbers, or for none if a number cannot be written to.

    Links appear as their full targets: the audience gets personal short links, dead before the campaign starts, whose
    clicks count for the campaign. A test may therefore be longer than the message. The same request under the same
    `Idempotency-Key` requests no more messages.
    """
    now = datetime.now(UTC)
    call = derived_id("call", caller, key)
    async with held.database.begin() as tx:
        campaign, sender = await pre_flight.campaign_of(tx, caller, campaign_id, lock=True)
        countries = applying(body.country, sender.countries, held.settings.country)
        people = {held.subject_keys.subject_id(found.e164): found for found in _read(body, countries, held.settings)}
        claimed = await claim(tx, await keyed(request, caller, key, held.subject_keys))
        if claimed.answer is not None:
            return claimed.answer.response()
        if campaign.status in (Status.FINISHED, Status.CANCELLED):
            raise Conflict("the campaign is over", reasons=[Reason("status", campaign.status)])
        wordings = campaign.wordings
        if body.variant not in wordings:
            raise Invalid("the campaign has no variant of this name", reasons=[Reason("variant", "unknown_variant")])
        await audience.reading_contacts(tx)
        known = await store.contacts_and_standings(tx, campaign.sender_id, list(people))
        test = _Test(campaign, sender, wordings[body.variant], body.variant, caller, call, held, now)
        items, messages = [], []
        for subject_id, msisdn in people.items():
            attributes, standing = known.get(subject_id, (None, None))
            item, message = test.of(
                subject_id,
                msisdn,
                _attributes.decode(attributes) if attributes else body.attributes,
                _standing.decode(standing) if standing else None,
            )
            items.append(item)
            messages.append(message)
        # the campaign may have been edited since the first request
        texts_of = "\n".join(item.text for item in items)
        fingerprint = held.subject_keys.of_text(f"{await fingerprint_of(request, held.subject_keys)}\n{texts_of}")
        same(await store.fingerprint_of_call(tx, campaign_id, call) or fingerprint, fingerprint)
        tests = [TestSend(i.message_id, i.subject_id, i.variant, i.asked_by, i.asked_at) for i in items]
        new = await store.add_tests(tx, campaign_id, call, fingerprint, tests)
        if await store.tests_since(tx, campaign_id, now - timedelta(days=1)) > MOST_A_DAY:
            raise TooManyTests(f"{MOST_A_DAY} a day", reasons=[Reason("numbers", "too_many_tests")])
        await outbox.append(tx, CAMPAIGN_REQUESTS, [each for each in messages if each.message_id in new])
        ids = held.edge_ids.of(await caller.controller_of(campaign.sender_id, tx))
        shown = [each.model_copy(update={"subject_id": ids.shown(each.subject_id)}) for each in items]
        return await claimed.keep(tx, TestsSent(items=shown), 202)


@router.get(
    "/campaigns/{campaign_id}/test-sends", operation_id="test_sends.list", responses=refuses(CampaignUnreadable)
)
async def list_tests(
    campaign_id: Storable, held: Held, caller: Reader, cursor: Cursor = None, limit: Limit = LIMIT
) -> Page[Test]:
    """List the tests and their authors, newest first."""
    async with held.database.begin() as tx:
        campaign, _ = await pre_flight.campaign_of(tx, caller, campaign_id)
        ids = held.edge_ids.of(await caller.controller_of(campaign.sender_id, tx))
        sent = await store.tests_of(tx, campaign_id, position(cursor, tuple[datetime, str]), limit)
    told = [msgspec.structs.asdict(each) | {"subject_id": ids.shown(each.subject_id)} for each in sent]
    items = [Test(**each) for each in told]
    return Page[Test](items=items, next=next_of(sent, limit, attrgetter("asked_at", "message_id")))


def _read(body: NewTest, countries: Sequence[str], settings: Any) -> list[Msisdn]:
    found = []
    for place, raw in enumerate(body.numbers):
        try:
            found.append(parse(raw, countries=countries, fictional=settings.fictional_numbers))
        except NumberRefused as refused:
            raise Invalid(
                "not a mobile number", reasons=[Reason(f"numbers.{place}", refused.reason.value, refused.remedy)]
            ) from refused
    return found


@dataclass(frozen=True)
class _Test:
    """A call and its campaign."""

    campaign: Campaign
    sender: Sender
    wording: Wording
    variant: str
    caller: Caller
    call: str
    held: Resources[Any]
    now: datetime

    def of(
        self, subject_id: str, msisdn: Msisdn, attributes: Mapping[str, str], standing: Standing | None
    ) -> tuple[TestSent, MessageRequested]:
        """Return the test and its request. Raises Invalid if the person has no text."""
        campaign, now, keys = self.campaign, self.now, self.held.field_keys
        if (missing := self.wording.missing(attributes)) is not None:
            raise Invalid("the text needs an attribute", reasons=[Reason(f"attributes.{missing}", "missing")])
        if self.wording.targets and self.sender.link_host is None:
            raise Invalid(
                "the sender has no `link_host`: set one, or write the text without links",
                reasons=[Reason("text", "link_host_missing")],
            )
        sender = self.sender
        if self.wording.stops_by_link and sender.stop_page is None:
            raise Invalid(
                "no stop page is configured: set PLACET_PAGE_URL, or leave out {stop_link} and {preferences}",
                reasons=[Reason("text", "stop_page_missing")],
            )
        tokens = Tokens(self.held.link_keys, campaign.campaign_id, subject_id, campaign.sender_id, now)
        written = self.wording.with_links_in_full().render(attributes, sender.stop_code, tokens)
        problem = texts.refused(written, sender.stop_code, sender.stop_added, stop_page=sender.stop_page)
        if problem is not None:
            raise Invalid(
                "these attributes give a text that cannot be sent", reasons=[Reason("attributes", problem.value)]
            )
        table = timetable(campaign.timing, sender.country, now, None, now, self.held.settings.policy)
        place = table.place(msisdn.territory, attributes)
        inner = self.held.subject_keys.inner(subject_id)
        identity = str(message_id(campaign.created_at, campaign.campaign_id, inner, f"test:{self.variant}:{self.call}"))
        item = TestSent(
            message_id=identity,
            subject_id=subject_id,
            variant=self.variant,
            asked_by=self.caller.subject,
            asked_at=now,
            text=written,
            length=length_of(written + sender.stop_added),
            against=[
                *denials(standing, campaign.sender_id, campaign.purpose, now),
                *of_place(written + sender.stop_added, sender, place, now, table.policy),
            ],
        )
        request = MessageRequested(
            message_id=identity,
            campaign_id=None,  # outside the audience, and before the start
            sender_id=campaign.sender_id,
            purpose=campaign.purpose,
            category="marketing",
            subject_id=subject_id,
            number=keys.seal(msisdn.e164, f"number:{subject_id}"),
            text=keys.seal(written, f"text:{identity}"),
            requested_at=now,
            send_before=now + KEPT,
            region=place.region,
        )
        return item, request
