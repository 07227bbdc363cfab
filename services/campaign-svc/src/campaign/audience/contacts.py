"""HTTP: write, look up and delete contacts, and declare attributes.

A request names a contact in its body, never in the URL.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from campaign.audience import attributes, store
from campaign.audience.attribute import Kind
from campaign.audience.contact_fields import EXPLANATIONS, MAX_COLUMNS, LineProblem, against, plain
from campaign.message.text import STOP_FIELD
from campaign.senders import registry
from campaign.senders.caller import of_caller
from common.files.columns import NUMBER_TITLES
from common.privacy import erasing
from common.service import Resources
from common.sms.msisdn import NumberRefused, applying, parse
from common.web.auth import Caller, require
from common.web.edge_id import ControllerIds
from common.web.fields import NumberCountry, NumberFree, Storable
from common.web.openapi import refuses
from common.web.pagination import LIMIT, Cursor, Limit, Page, next_of, position, subject_of
from common.web.problems import Invalid, NotFound, Reason

router = APIRouter(prefix="/v1", tags=["contacts"])

AT_ONCE = 1000  # contacts per request
NO_ATTRIBUTES = frozenset({STOP_FIELD, *NUMBER_TITLES})

Held = Annotated[Resources[Any], Depends(of_caller)]
Writer = Annotated[Caller, Depends(require("contact:write"))]
Reader = Annotated[Caller, Depends(require("contact:read", "contact:write"))]
SenderId = Annotated[Storable, Field(min_length=1, max_length=40)]
InPath = Annotated[Storable, Path(max_length=40)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$"), NumberFree]
Number = Annotated[Storable, Field(max_length=64)]
SubjectId = Annotated[Storable, Field(max_length=100)]


class NewContact(BaseModel):
    """A contact to create or to update, by the number."""

    model_config = ConfigDict(extra="forbid")

    number: Number = Field(
        description="A mobile number in any usual notation. A writing that could be two people's is refused as"
        " `ambiguous`."
    )
    country: NumberCountry = None
    attributes: dict[Name, Storable | bool | int | float | None] = Field(
        {},
        max_length=MAX_COLUMNS,
        description="Attributes left out keep their values. `timezone` (Europe/Paris) takes precedence over the"
        " number's territory, `postcode` adds regional holidays, `language` chooses the text.",
    )


class NewContacts(BaseModel):
    """Contacts of a sender: up to 1,000 in a request."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "sender_id": "maison-lune",
                    "contacts": [
                        {"number": "06 39 98 01 02", "attributes": {"first_name": "Zoé", "points": 120, "vip": True}}
                    ],
                }
            ]
        },
    )

    sender_id: SenderId
    contacts: list[NewContact] = Field(min_length=1, max_length=AT_ONCE)


class Verdict(BaseModel):
    """The result for a contact, in request order. Of equal numbers the last is stored. `subject_id`: the person's id
    with the sender's controller."""

    result: Literal["created", "updated", "duplicate", "refused"] = Field(
        description="`duplicate`: a later item has the same number, and counts instead."
    )
    subject_id: str | None = Field(
        description="The person's id with the sender's controller; null for a refused contact."
    )
    reason: str | None = Field(
        description="The reason for a refusal; for an attribute, followed by a colon and the attribute's name."
    )
    detail: str | None = Field(description="The reason in words; null without a refusal.")


class Verdicts(BaseModel):
    """The results of a request with contacts."""

    items: list[Verdict] = Field(description="A result for each contact, in request order.")
    other_numbers: list[str] = Field(
        description="Attributes named like phone numbers: campaign-svc stores none of their values."
    )


class Who(BaseModel):
    """A person, by either `number` or `subject_id`, the person's id with the sender's controller."""

    model_config = ConfigDict(extra="forbid")

    number: Number | None = Field(None, description="A mobile number in any usual notation.")
    country: NumberCountry = None
    subject_id: SubjectId | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "Who":
        if (self.number is None) == (self.subject_id is None):
            raise ValueError("either `number` or `subject_id`")
        return self


class ContactAsked(Who):
    """The sender, and the person whose contact to return."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"sender_id": "acme", "number": "06 39 98 12 34"}]})

    sender_id: SenderId


class Gone(BaseModel):
    """The contacts to delete."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"sender_id": "acme", "contacts": [{"number": "06 39 98 12 34"}]}]},
    )

    sender_id: SenderId
    contacts: list[Who] = Field(min_length=1, max_length=AT_ONCE)


class Contact(BaseModel):
    """A contact, without its number. `subject_id`: the person's id with the sender's controller."""

    subject_id: str
    territory: str | None = Field(
        description="The number's territory. Null until a later request or import holds the number again."
    )
    attributes: dict[str, str] = Field(description="Values in stored form: 2026-11-26, 12.5, true.")
    created_at: datetime
    updated_at: datetime = Field(description="The time of the last change.")


class Deleted(BaseModel):
    """The result of a deletion of contacts."""

    deleted: int = Field(description="Contacts deleted; a person without a contact does not count.")


class Declared(BaseModel):
    """The kind of an attribute."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind = Field(
        description="`number` of at most 15 digits and 6 decimals, `date`, `boolean` or `text`. New values of another"
        " kind are refused. Stored values stay, and no comparison matches a stored value of another kind."
    )


@router.post("/contacts", operation_id="contacts.put", responses=refuses(NotFound))
async def put_contacts(body: NewContacts, held: Held, caller: Writer) -> Verdicts:
    """Create or update contacts. A refused contact does not affect the others.

    The first accepted value of an unknown attribute fixes its kind: a JSON number, a JSON boolean, else text.
    Attributes named like phone numbers are dropped (`other_numbers`).
    """
    sender = await registry.known(held.database, caller, body.sender_id)
    ids = held.edge_ids.of(await caller.controller_of(body.sender_id))
    now = datetime.now(UTC)
    async with held.database.begin() as tx:
        kinds = known = await attributes.kinds_of(tx, body.sender_id)
        whose = [_whose(contact, held, sender.countries) for contact in body.contacts]
        await erasing.be_waited_for(tx)
        erased = await store.erased_among(
            tx, body.sender_id, {who.subject_id for who in whose if isinstance(who, _Whose)}
        )
        read: list[_Read | str] = []
        for contact, who in zip(body.contacts, whose, strict=True):
            inferred = _inferred(contact, kinds)
            each = who if isinstance(who, str) else _read(contact, who, kinds | inferred)
            read.append(each)
            if isinstance(each, _Read) and each.subject_id not in erased:
                kinds = kinds | inferred
        rows = {row[1]: row for place, each in enumerate(read) if (row := _row(place, each, held)) is not None}
        put = [row for subject_id, row in rows.items() if subject_id not in erased]
        created = await store.put_contacts(tx, body.sender_id, put, now)
        kept = {name for row in put for name in body.contacts[row[0]].attributes}
        new = {name: kind for name, kind in kinds.items() if name in kept and name not in known}
        await attributes.learn(tx, body.sender_id, new, now)
    verdicts = []
    for place, each in enumerate(read):
        if isinstance(each, str):
            verdicts.append(_refused(each, None))
        elif each.subject_id in erased:
            verdicts.append(_refused(LineProblem.ERASED, ids.shown(each.subject_id)))
        elif rows[each.subject_id][0] != place:
            verdicts.append(
                Verdict(result="duplicate", subject_id=ids.shown(each.subject_id), reason=None, detail=None)
            )
        else:
            result: Literal["created", "updated"] = "created" if created[each.subject_id] else "updated"
            verdicts.append(Verdict(result=result, subject_id=ids.shown(each.subject_id), reason=None, detail=None))
    others = [name for name in NUMBER_TITLES if any(name in contact.attributes for contact in body.contacts)]
    return Verdicts(items=verdicts, other_numbers=others)


@router.get("/contacts", operation_id="contacts.list")
async def list_contacts(
    sender_id: Annotated[Storable, Query(min_length=1, max_length=40)],
    held: Held,
    caller: Reader,
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[Contact]:
    """List the contacts of a sender with their attributes.

    The order is the same in each reading, and means nothing. A contact created while you read the pages is on a page,
    or on none.
    """
    await caller.may_use(sender_id)
    ids = held.edge_ids.of(await caller.controller_of(sender_id))
    who = position(cursor, str)
    after = subject_of(who, ids) if who is not None else ""
    async with held.database.begin() as tx:
        found = await store.contacts_after(tx, sender_id, after, limit)
    items = sorted((shown(each, ids) for each in found), key=attrgetter("subject_id"))  # as exports: ADR-0071
    return Page[Contact](items=items, next=next_of(found, limit, lambda each: ids.shown(each.subject_id)))


@router.post("/contacts/lookup", operation_id="contacts.lookup", responses=refuses(NotFound))
async def look_up_contact(body: ContactAsked, held: Held, caller: Reader) -> Contact:
    """Return a contact with the attributes, found by the number or by the person's id."""
    await caller.may_use(body.sender_id)
    ids = held.edge_ids.of(await caller.controller_of(body.sender_id))
    countries = await caller.countries(None, [body.sender_id], held.settings.country)
    async with held.database.begin() as tx:
        found = await store.find_contact(tx, body.sender_id, person_named(body, held, ids, countries))
    if found is None:
        raise NotFound("the sender has no such contact", reasons=[Reason(None, "unknown_contact")])
    return shown(found, ids)


def shown(found: store.Contact, ids: ControllerIds) -> Contact:
    """Return the contact for an answer. `ids`: of people with the sender's controller."""
    return Contact(**msgspec.structs.asdict(found) | {"subject_id": ids.shown(found.subject_id)})


@router.post("/contacts/delete", operation_id="contacts.delete", responses=refuses(NotFound))
async def delete_contacts(body: Gone, held: Held, caller: Writer) -> Deleted:
    """Delete contacts of this sender. Consents stay: erasures and opt-outs go to consent-svc.

    Messages already requested are decided as before.
    """
    await caller.may_use(body.sender_id)
    ids = held.edge_ids.of(await caller.controller_of(body.sender_id))
    countries = await caller.countries(None, [body.sender_id], held.settings.country)
    subject_ids = sorted(
        {person_named(who, held, ids, countries, f"contacts.{place}") for place, who in enumerate(body.contacts)}
    )
    async with held.database.begin() as tx:
        return Deleted(deleted=await store.delete_of_sender(tx, body.sender_id, subject_ids))


@router.get("/senders/{sender_id}/attributes", operation_id="attributes.get")
async def list_attributes(sender_id: InPath, held: Held, caller: Reader) -> dict[str, Kind]:
    """Return the kind of each attribute, declared or inferred."""
    await registry.known(held.database, caller, sender_id)
    async with held.database.begin() as tx:
        return await attributes.kinds_of(tx, sender_id)


@router.put("/senders/{sender_id}/attributes/{name}", operation_id="attributes.declare")
async def declare_attribute(
    sender_id: InPath,
    name: Annotated[Name, Path(description="The attribute, as texts and segments name it.")],
    body: Declared,
    held: Held,
    caller: Writer,
) -> Declared:
    """Declare an attribute's kind, before or after its first value. Saved segments keep the earlier kind."""
    await caller.may_use(sender_id)
    if name == STOP_FIELD:
        raise Invalid(
            "`stop` is the STOP mention in a text: name the attribute otherwise",
            reasons=[Reason("name", LineProblem.RESERVED_COLUMN)],
        )
    if name in NUMBER_TITLES:
        raise Invalid(
            "`name` is a column of phone numbers, which cannot be an attribute",
            reasons=[Reason("name", "number_column")],
        )
    await registry.known(held.database, caller, sender_id)
    async with held.database.begin() as tx:
        await attributes.declare(tx, sender_id, name, body.kind, caller.subject, datetime.now(UTC))
    return body


class _Whose(msgspec.Struct, frozen=True):
    subject_id: str
    e164: str
    territory: str


class _Read(_Whose, frozen=True):
    attributes: dict[str, str]


def _inferred(contact: NewContact, known: Mapping[str, Kind]) -> dict[str, Kind]:
    """Infer the kinds of unknown attributes from the JSON types."""
    found: dict[str, Kind] = {}
    for name, value in contact.attributes.items():
        if name in known or value is None or value == "" or name in NO_ATTRIBUTES:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        found[name] = Kind.BOOLEAN if isinstance(value, bool) else Kind.NUMBER if number else Kind.TEXT
    return found


def _whose(contact: NewContact, held: Resources[Any], of_sender: Sequence[str]) -> _Whose | str:
    """Return the contact's identity, or the reason for a refusal."""
    if STOP_FIELD in contact.attributes:
        return LineProblem.RESERVED_COLUMN
    try:
        countries = applying(contact.country, of_sender, held.settings.country)
        msisdn = parse(contact.number, countries=countries, fictional=held.settings.fictional_numbers)
    except NumberRefused as refused:
        return refused.reason
    return _Whose(held.subject_keys.subject_id(msisdn.e164), msisdn.e164, msisdn.territory)


def _read(contact: NewContact, whose: _Whose, kinds: Mapping[str, Kind]) -> _Read | str:
    """Return the contact in stored form, or the reason for a refusal."""
    values = {
        name: v.strip() if isinstance(v, str) else plain(v)
        for name, v in contact.attributes.items()
        if name not in NO_ATTRIBUTES
    }
    typed = [(name, kinds[name]) for name in values if kinds.get(name, Kind.TEXT) is not Kind.TEXT]
    if (problem := against(values, typed)) is not None:
        return problem
    return _Read(whose.subject_id, whose.e164, whose.territory, values)


def _row(place: int, read: _Read | str, held: Resources[Any]) -> store.ImportedRow | None:
    if isinstance(read, str):
        return None
    number = held.field_keys.seal(read.e164, f"number:{read.subject_id}")
    return place, read.subject_id, number, msgspec.json.encode(read.attributes).decode(), read.territory


def _refused(reason: str, subject_id: str | None) -> Verdict:
    detail = EXPLANATIONS.get(reason.partition(":")[0])
    return Verdict(result="refused", subject_id=subject_id, reason=reason, detail=detail)


def person_named(who: Who, held: Resources[Any], ids: ControllerIds, of_sender: Sequence[str], at: str = "") -> str:
    """Return the subject id of a person. `of_sender`: the sender's countries.

    Raises Invalid for a refused number, and for an id that is none of the controller's.
    """
    if who.subject_id is not None:
        subject_id = ids.subject_id(who.subject_id)
        if subject_id is None:
            raise Invalid(
                "`subject_id` is no id of a person with this sender's controller: take it from an answer or an export"
                " about a sender of the same controller",
                reasons=[Reason(f"{at}.subject_id" if at else "subject_id", "subject_id_not_valid")],
            )
        return subject_id
    assert who.number is not None
    try:
        countries = applying(who.country, of_sender, held.settings.country)
        found = parse(who.number, countries=countries, fictional=held.settings.fictional_numbers)
        return str(held.subject_keys.subject_id(found.e164))
    except NumberRefused as refused:
        field = f"{at}.number" if at else "number"
        raise Invalid(EXPLANATIONS[refused.reason], reasons=[Reason(field, refused.reason)]) from refused
