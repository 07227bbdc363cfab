"""What stays in clear after a person's erasure takes no phone number at the edge: each field, in each writing."""

from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from campaign.api.bodies import Audience, NewCampaign
from campaign.audience.api import NewSegment
from campaign.audience.attribute import Kind
from campaign.audience.contacts import Name, NewContact
from campaign.audience.contacts_file import check
from campaign.audience.segment_language import SegmentRefused, parse
from campaign.templates.api import FieldBody, NewTemplate
from campaign.webhooks.bodies import NewWebhook, WebhookChange
from common.files.refused import WrongColumns
from common.web.fields import Slug
from consent.bodies import EvidenceBody
from consent.imports.upload import Terms
from consent.rights.bodies import AskedBody, ContactBody, FieldName
from consent.senders.bodies import NewSender, PurposeBody
from consent.senders.reopening import EndBody, RuleBody
from dispatch.accepting.bodies import Send

DIGITS = "0639981234"
WRITTEN = "rappel 06 39 98 12 34"
SENDER = {"legal_name": "Lune SAS", "brand": "Lune", "contact": "06 39 98 12 34", "country": "FR", "oadc": "LUNE"}
FIELDS: list[tuple[type[BaseModel], str, Any]] = [
    (NewCampaign, "name", WRITTEN),
    (Audience, "where", {"city": WRITTEN}),
    (Audience, "where", {"city": ["Lyon", WRITTEN]}),
    (Audience, "where", {DIGITS: "Lyon"}),
    (NewSegment, "name", WRITTEN),
    (NewContact, "attributes", {DIGITS: "x"}),
    (NewTemplate, "name", WRITTEN),
    (FieldBody, "name", f"f{DIGITS}"),
    (NewWebhook, "url", f"https://shop.example/{DIGITS}"),
    (NewWebhook, "description", WRITTEN),
    (WebhookChange, "description", WRITTEN),
    (EvidenceBody, "source", f"shop-{DIGITS}"),
    (AskedBody, "source", "desk.06.39.98.12.34"),
    (ContactBody, "fields", {DIGITS: "x"}),
    (PurposeBody, "id", f"p-{DIGITS}"),
    (PurposeBody, "wording", WRITTEN),
    (NewSender, "legal_name", WRITTEN),
    (NewSender, "brand", WRITTEN),
    (NewSender, "authorisation", WRITTEN),
    (RuleBody, "reason", WRITTEN),
    (EndBody, "reason", WRITTEN),
    (Send, "purpose", f"p{DIGITS}"),
    (Terms, "evidence", {"source": "crm", "actor": WRITTEN}),
    (Terms, "evidence", {"source": "crm", "text_shown": WRITTEN}),
]


@pytest.mark.parametrize(("body", "field", "value"), FIELDS, ids=[f"{b.__name__}.{f}" for b, f, _ in FIELDS])
def test_a_field_that_stays_refuses_a_number(body: type[BaseModel], field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        body.model_validate({field: value})
    mine = [each for each in refused.value.errors() if each["loc"][:1] == (field,)]
    assert "phone_number" in {each["type"] for each in mine}
    assert not [each for each in mine if "39 98" in each["msg"] or DIGITS in each["msg"]], "no sentence repeats it"


@pytest.mark.parametrize("kind", [Slug, Name, FieldName])
def test_a_name_refuses_a_number(kind: Any) -> None:
    with pytest.raises(ValidationError, match="phone number"):
        TypeAdapter(kind).validate_python(DIGITS)


def test_what_an_organisation_says_of_itself_may_have_its_number() -> None:
    with pytest.raises(ValidationError) as refused:
        NewSender.model_validate(SENDER)
    assert "phone_number" not in {each["type"] for each in refused.value.errors()}


@pytest.mark.parametrize(
    "expression",
    [
        {"attribute": "city", "is": WRITTEN},
        {"attribute": "city", "in": ["Lyon", WRITTEN]},
        {"not": {"attribute": "city", "starts_with": "+33639981234"}},
        {"attribute": "points", "gte": 33639981234},
    ],
)
def test_a_segment_refuses_a_number(expression: Any) -> None:
    with pytest.raises(SegmentRefused) as refused:
        parse(expression, {"city": Kind.TEXT, "points": Kind.NUMBER})
    assert refused.value.reason == "phone_number"


@pytest.mark.parametrize("title", [DIGITS, WRITTEN, "+33 6 39 98 12 34", "rappel_06_39_98_12_34"])
def test_a_file_whose_title_has_a_number_is_refused(title: str) -> None:
    with pytest.raises(WrongColumns) as refused:
        check([f"number;{title}\n0639981235;x\n".encode()])
    assert refused.value.reason == "number_in_title"
    assert "39" not in str(refused.value)
