"""HTTP: write a template, approve a version as a second person, retire, show, list."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.authors import may_approve
from campaign.senders import registry
from campaign.senders.caller import of_caller
from campaign.templates import rules, store
from campaign.templates.store import Version as Stored
from common.contracts import TEMPLATES
from common.contracts.campaign import TemplateChanged, TemplateField
from common.kafka import outbox
from common.service import Resources
from common.texts import template as texts
from common.texts.findings import Finding, load
from common.texts.template import MOST_FIELDS, MOST_VALUE_CHARS
from common.version import at_least, following
from common.web.auth import Caller, require
from common.web.fields import Label, NumberFree, Storable
from common.web.idempotency import Key, claim, derived_id, fingerprint_of, keyed, same
from common.web.openapi import refuses, tells
from common.web.pagination import LIMIT, Cursor, Limit, OfSender, Page, next_of, position
from common.web.problems import Conflict, Forbidden, Invalid, NotFound, Reason

router = APIRouter(prefix="/v1", tags=["templates"])

MAX_TEXT_CHARS = 1530  # ten SMS
MOST_VERSIONS = 1000

Held = Annotated[Resources[Any], Depends(of_caller)]
Author = Annotated[Caller, Depends(require("template:write"))]
Retires = Annotated[Caller, Depends(require("template:write", limited=False))]  # no limit delays a stop
Approver = Annotated[Caller, Depends(require("template:approve"))]
Reader = Annotated[Caller, Depends(require("template:read"))]
State = Literal["draft", "approved", "retired"]


class TemplateNotValid(Invalid):
    """The text and the fields of the template do not fit each other, or a field is not stated as it has to be.

    Mend each place that `reasons` names.
    """

    slug, title = "template-not-valid", "The template has a flaw"


class TemplateNotReady(Conflict):
    """The version has findings, such as signs of advertising, that this approval does not accept.

    Write another version, or approve with every finding named in `acknowledge`.
    """

    slug, title = "template-not-ready", "The version has open findings"


class FieldBody(BaseModel):
    """A field of the text, with the limits of its value."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$"), NumberFree] = Field(
        description="The name of the field, written `{name}` in the text."
    )
    max_chars: int = Field(
        40, ge=1, le=MOST_VALUE_CHARS, description="The most characters of a value; a longer value is refused."
    )
    links: bool = Field(False, description="The value may hold a link.")
    prices: bool = Field(False, description="The value may be a price, or part of a price.")


class Content(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: Storable = Field(min_length=1, max_length=MAX_TEXT_CHARS, pattern=r"\S", description="With {fields}.")
    fields: list[FieldBody] = Field(
        [], max_length=MOST_FIELDS, description="Every field of the text, up to 10, each once."
    )


class NewTemplate(Content):
    """A template with its first version, a draft."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "sender_id": "maison-lune-compte",
                    "name": "Code de connexion",
                    "category": "transactional",
                    "text": "Maison Lune : votre code est {code}.",
                    "fields": [{"name": "code", "max_chars": 8}],
                }
            ]
        },
    )

    sender_id: Storable = Field(min_length=1, max_length=40)
    name: Label = Field(
        min_length=1, max_length=120, description="The name of the template, for the people who work with it."
    )
    category: Literal["transactional", "service"] = Field(description="The class of the messages, and their lane.")
    language: str = Field("fr", pattern=r"^[a-z]{2}$", description="ISO 639-1.")


class NewTemplateVersion(Content):
    """Another text for a template: the next version, a draft."""

    after: int = Field(ge=1, description="The latest version known to the caller; 409 if a later version exists.")


class VersionApproval(BaseModel):
    """An approval of a version by a second person."""

    model_config = ConfigDict(extra="forbid")

    acknowledge: list[Annotated[Storable, Field(max_length=200)]] = Field(
        [], max_length=100, description="The ids of all findings of the version."
    )


class Retirement(BaseModel):
    """The version to retire: no message leaves from the version any more."""

    model_config = ConfigDict(extra="forbid")

    version: int | None = Field(None, ge=1, le=MOST_VERSIONS, description="Null: every version.")


class TextFinding(BaseModel):
    """A finding in the version's own text, with the rule and its source."""

    id: str = Field(description="The id that acknowledges the finding.")
    rule: str
    says: str = Field(description="The finding, in words for the author.")
    source: str = Field(description="The source of the rule: a law, an authority, or an operator.")
    approvable: bool = Field(description="False: the text has to change.")


class Version(BaseModel):
    """A version. The text never changes; an approval publishes the version, a retirement ends its use."""

    number: int = Field(description="The number of the version, from 1.")
    state: State = Field(
        description="`draft`: waits for an approval. `approved`: in use. `retired`: no message leaves from the version."
    )
    text: str = Field(description="The text, with its fields unfilled.")
    fields: list[FieldBody] = Field(description="The fields of the text, with the limits of their values.")
    findings: list[TextFinding] = Field(description="The findings in the text; an approval has to acknowledge each.")
    written_by: str = Field(description="The author, by `sub` of the token: another person has to approve.")
    written_at: datetime = Field(description="The time of the writing.")
    approved_by: str | None = Field(description="The person who approved, by `sub` of the token; null for a draft.")
    approved_at: datetime | None = Field(description="The time of the approval; null for a draft.")
    acknowledged: list[str] | None = Field(
        description="The ids of the findings that the approval acknowledged; null for a draft."
    )
    retired_by: str | None = Field(
        description="The person who retired the version, by `sub` of the token; null while in use."
    )
    retired_at: datetime | None = Field(description="The time of the retirement; null while in use.")


class Template(BaseModel):
    """A template of transactional or service messages, with its versions."""

    template_id: str
    sender_id: str
    name: str = Field(description="The name of the template, for the people who work with it.")
    category: str
    language: str
    versions: list[Version] = Field(description="Newest first; in a list, the newest alone.")


@router.post(
    "/templates",
    operation_id="templates.create",
    status_code=201,
    response_model=Template,
    responses=tells(201, "Location") | refuses(NotFound, TemplateNotValid),
)
async def write_template(body: NewTemplate, request: Request, held: Held, caller: Author, key: Key = None) -> Response:
    """Write a template with its first version, a draft: a second person has to approve the version.

    A repeat of the request with the same `Idempotency-Key` gets the first answer: the template with its draft.
    """
    await registry.known(held.database, caller, body.sender_id)
    fields = _checked(body)
    template_id = derived_id("tpl", caller, key)
    fingerprint = await fingerprint_of(request, held.subject_keys)
    async with held.database.begin() as tx:
        claimed = await claim(tx, await keyed(request, caller, key, held.subject_keys))
        if claimed.answer is not None:
            return claimed.answer.response()
        new = await store.insert(tx, template_id, body.sender_id, body.name, body.category, body.language, fingerprint)
        if new:
            await store.add_version(
                tx,
                template_id,
                body.text,
                fields,
                texts.own_findings(body.text, fields),
                written_by=caller.subject,
                now=datetime.now(UTC),
            )
        template = await _found(tx, caller, template_id)
        same(template.fingerprint, fingerprint)
        [shown] = await _shown(tx, [template])
        return await claimed.keep(tx, shown, 201, {"Location": f"/v1/templates/{template_id}"})


@router.post(
    "/templates/{template_id}/versions",
    operation_id="templates.create_version",
    status_code=201,
    responses=refuses(Conflict, TemplateNotValid),
)
async def write_version(template_id: Storable, body: NewTemplateVersion, held: Held, caller: Author) -> Template:
    """Write the next version, a draft. Approved versions stay in use until they are retired."""
    async with held.database.begin() as tx:
        template = await _found(tx, caller, template_id, lock=True)
        if template.latest != body.after:
            raise Conflict(
                "a later version exists: read the template, and write again", reasons=[Reason("after", "not_latest")]
            )
        if template.latest >= MOST_VERSIONS:
            raise Conflict("write a new template", reasons=[Reason("after", "too_many_versions")])
        fields = _checked(body)
        found = texts.own_findings(body.text, fields)
        await store.add_version(
            tx, template_id, body.text, fields, found, written_by=caller.subject, now=datetime.now(UTC)
        )
        return (await _shown(tx, [await _found(tx, caller, template_id)]))[0]


@router.post(
    "/templates/{template_id}/versions/{number}/approve",
    operation_id="templates.approve_version",
    responses=refuses(Conflict, TemplateNotReady),
)
async def approve_version(
    template_id: Storable,
    number: Annotated[int, Path(ge=1, le=MOST_VERSIONS, description="The number of the version.")],
    held: Held,
    caller: Approver,
    body: VersionApproval | None = None,
) -> Template:
    """Approve a version, so that messages may leave from the version.

    The approver is no author of this version, nor of an earlier one (403), and acknowledges each finding in the text by
    its id (409). A retired version stays retired.
    """
    acknowledged = [] if body is None else body.acknowledge
    now = datetime.now(UTC)
    async with held.database.begin() as tx:
        template = await _found(tx, caller, template_id, lock=True)
        versions = {each.number: each for each in await store.versions_of(tx, [template_id])}
        version = _of_number(versions, number)
        if not may_approve(caller.subject, [each.written_by for each in versions.values() if each.number <= number]):
            raise Forbidden(
                "an author of the version, or of an earlier version, cannot approve it: ask another person",
                reasons=[Reason("approved_by", "own_template")],
            )
        if version.retired_at is not None:
            raise Conflict("the version is retired: write the next version", reasons=[Reason("state", "retired")])
        if version.approved_at is None:
            signs = load()
            found = texts.own_findings(version.text, version.fields)
            if against := rules.against_approval(found, acknowledged, signs):
                raise TemplateNotReady(
                    "a finding is to be acknowledged by its id, or the text to be changed",
                    reasons=[Reason("acknowledge", each.id, signs.rules[each.rule].says) for each in against],
                )
            versions[number] = await store.approve(
                tx, version, [each.id for each in found], signs.version, by=caller.subject, now=now
            )
            await outbox.append(tx, TEMPLATES, [_event(template, version, "approved", at_least(now))])
    return _with(template, versions.values())


@router.post("/templates/{template_id}/retire", operation_id="templates.retire")
async def retire_template(
    template_id: Storable, held: Held, caller: Retires, body: Retirement | None = None
) -> Template:
    """Retire one version, or every version so far.

    No message leaves from a retired version once dispatch-svc has the retirement: within a second as a rule, and later
    while Kafka or dispatch-svc is behind.
    """
    number = None if body is None else body.version
    now = datetime.now(UTC)
    async with held.database.begin() as tx:
        template = await _found(tx, caller, template_id, lock=True)
        versions = {each.number: each for each in await store.versions_of(tx, [template_id])}
        for version in [*versions.values()] if number is None else [_of_number(versions, number)]:
            if version.retired_at is not None:
                continue
            versions[version.number] = await store.retire(tx, version, by=caller.subject, now=now)
            if version.approved_at is not None:
                newer = following(at_least(version.approved_at), now)
                await outbox.append(tx, TEMPLATES, [_event(template, version, "retired", newer)])
    return _with(template, versions.values())


@router.get("/templates", operation_id="templates.list")
async def list_templates(
    held: Held, caller: Reader, sender_id: OfSender = None, cursor: Cursor = None, limit: Limit = LIMIT
) -> Page[Template]:
    """List the templates of the senders your token covers, newest first, each with its newest version."""
    covered = await caller.covered(sender_id)
    async with held.database.begin() as tx:
        found = await store.templates_before(tx, position(cursor, int), covered, limit)
        items = await _shown(tx, found, newest=True)
    return Page[Template](items=items, next=next_of(found, limit, lambda template: template.position))


@router.get("/templates/{template_id}", operation_id="templates.get")
async def get_template(template_id: Storable, held: Held, caller: Reader) -> Template:
    """Return a template with every version, and the findings in each text."""
    async with held.database.begin() as tx:
        return (await _shown(tx, [await _found(tx, caller, template_id)]))[0]


def _checked(body: Content) -> tuple[TemplateField, ...]:
    """Return the fields of a text without a flaw. Raises TemplateNotValid."""
    fields = tuple(TemplateField(**field.model_dump()) for field in body.fields)
    if found := list(rules.flaws(body.text, fields)):
        raise TemplateNotValid(
            "; ".join(flaw.detail for flaw in found),
            reasons=[Reason(f"fields.{flaw.field}" if flaw.field else "text", flaw.reason) for flaw in found],
        )
    return fields


async def _found(tx: AsyncConnection, caller: Caller, template_id: str, *, lock: bool = False) -> store.Template:
    missing = NotFound("no such template", reasons=[Reason("template_id", "unknown_template")])
    return await caller.theirs(tx, await store.found(tx, template_id, lock=lock), missing)


def _of_number(versions: Mapping[int, Stored], number: int) -> Stored:
    if number not in versions:
        raise NotFound("no such version", reasons=[Reason("number", "unknown_version")])
    return versions[number]


def _event(
    template: store.Template, version: Stored, state: Literal["approved", "retired"], newest: int
) -> TemplateChanged:
    assert template.category != "marketing"
    return TemplateChanged(
        template_version=f"{template.template_id}@{version.number}",
        template_id=template.template_id,
        number=version.number,
        sender_id=template.sender_id,
        category=template.category,
        language=template.language,
        text=version.text,
        fields=version.fields,
        state=state,
        version=newest,
    )


async def _shown(tx: AsyncConnection, templates: Sequence[store.Template], *, newest: bool = False) -> list[Template]:
    versions = await store.versions_of(tx, [template.template_id for template in templates], newest=newest)
    return [_with(each, [one for one in versions if one.template_id == each.template_id]) for each in templates]


def _with(template: store.Template, versions: Iterable[Stored]) -> Template:
    return Template(
        template_id=template.template_id,
        sender_id=template.sender_id,
        name=template.name,
        category=template.category,
        language=template.language,
        versions=[_version_shown(each) for each in versions],
    )


def _version_shown(version: Stored) -> Version:
    state: State = "retired" if version.retired_at else "approved" if version.approved_at else "draft"
    return Version(
        number=version.number,
        state=state,
        text=version.text,
        fields=[
            FieldBody(name=field.name, max_chars=field.max_chars, links=field.links, prices=field.prices)
            for field in version.fields
        ],
        findings=list(map(_against, version.findings)),
        written_by=version.written_by,
        written_at=version.written_at,
        approved_by=version.approved_by,
        approved_at=version.approved_at,
        acknowledged=None if version.acknowledged is None else list(version.acknowledged),
        retired_by=version.retired_by,
        retired_at=version.retired_at,
    )


def _against(finding: Finding) -> TextFinding:
    rule = load().rules[finding.rule]
    return TextFinding(id=finding.id, rule=finding.rule, says=rule.says, source=rule.source, approvable=rule.approvable)
