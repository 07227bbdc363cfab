"""The HTTP bodies of the sender registry, and the checks of each field."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, model_validator

from common.contracts.consent import RETENTION_MONTHS, StopScope
from common.web.fields import NumberFree, Short, Slug, storable
from consent.answers.replies import question_flaws
from consent.bodies import Body
from consent.senders.names import skeleton
from consent.senders.store import LONGEST_WINDOW_HOURS, WINDOW_HOURS

TRANSACTIONAL = "38"  # prefix of the STOP codes of this class (AF2M, DOMAIN 1.7); marketing has 36xxx


def _asks(value: str) -> str:
    if flaws := list(question_flaws(value)):
        raise ValueError("; ".join(flaws))
    return value


def _with_a_letter(value: str) -> str:
    if value.isdigit():
        raise ValueError("one letter at least, or it could pass for a number")
    return value


def _readable(value: str) -> str:
    if not skeleton(value):
        raise ValueError("one letter or digit at least")
    return value


Reply = Annotated[str, StringConstraints(min_length=1, max_length=306), AfterValidator(storable)]  # two SMS in GSM-7
Asked = Annotated[Reply, AfterValidator(_asks)]


class PurposeBody(Body):
    """A purpose for which the sender asks consent."""

    id: Slug = Field(description="The id of the purpose: 2 to 40 small letters, digits and hyphens.")
    wording: Annotated[Short, NumberFree] = Field(
        description="The purpose in words, for questions by SMS: without rebate, price, voucher or link."
    )
    retention_months: int = Field(
        default=RETENTION_MONTHS,
        ge=1,
        le=RETENTION_MONTHS,
        description="How long a consent holds after the person's last contact, in months, within the limit of the"
        " CNIL.",
    )


class RepliesBody(Body):
    """The sender's own texts for SMS answers, two SMS at most, without advertising; null: Placet's text.

    The link to the preference page is added to answers where it fits.
    """

    stop: Reply | None = Field(None, description="The answer to a STOP: names the brand, and has no link.")
    contact: Reply | None = Field(
        None,
        examples=["Maison Lune, édité par Maison Lune SAS : contact@maison-lune.example"],
        description="The answer to CONTACT: « édité par » and the legal name; its only link is the sender's `contact`.",
    )
    double_opt_in: Asked | None = Field(
        None,
        description="The question answered by OUI: with the fields {brand}, {purpose} and {stop_code}, and {link}"
        " for an SMS with a link.",
    )
    start: Reply | None = Field(None, description="The answer to a START: names the brand, and tells of STOP.")


Country = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]


class SenderContent(Body):
    """A sender without the id."""

    legal_name: Annotated[Short, AfterValidator(_readable), NumberFree]
    brand: Annotated[Short, AfterValidator(_readable), NumberFree]
    contact: Short = Field(
        description="The address or number at which people reach the sender, as the answer to CONTACT gives it."
    )
    country: Country
    oadc: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]{3,11}$"), AfterValidator(_with_a_letter)]
    stop_code: Annotated[str, StringConstraints(pattern=r"^3[68]\d{3}$")]
    purposes: tuple[PurposeBody, ...] = Field(
        max_length=100,
        description="The purposes for which the sender asks consent; none for a transactional STOP code.",
    )
    controller: Slug | None = Field(
        None,
        description="The controller, by the id of the legal entity, which several senders may share. Default: a"
        " new sender stands alone.",
    )
    stop_scope: StopScope = "controller"
    replies: RepliesBody = RepliesBody()
    double_opt_in_hours: int = Field(
        WINDOW_HOURS,
        ge=1,
        le=LONGEST_WINDOW_HOURS,
        description="Hours that a double opt-in question waits for the OUI.",
    )
    renewal_days: int | None = Field(
        None,
        ge=7,
        le=90,
        description="Days before a consent's end at which the person gets a single renewal question; null: no"
        " question.",
    )
    abroad: tuple[Country, ...] = Field(
        (), max_length=250, description="Other countries that the sender may send marketing to, ISO 3166-1."
    )
    authorisation: Annotated[Short, NumberFree] | None = Field(
        None,
        description="The platform's reference of the document by which the owner of a protected name allows its use,"
        " or which shows that the caller is a legal entity of this name; only a token with `platform:admin` sets"
        " another one.",
    )
    reachable_in: tuple[Country, ...] = Field(
        (),
        max_length=50,
        description="The overseas places where the sender states that its STOP code can be reached, such as `MQ`."
        " `GP` is of all numbers of +590, with Saint-Barthélemy and Saint-Martin. The registry keeps the caller and"
        " the time of each statement. Elsewhere outside metropolitan France a text needs `{stop_link}`.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "SenderContent":
        if len({purpose.id for purpose in self.purposes}) < len(self.purposes):
            raise ValueError("purposes: an id twice")
        if self.purposes and self.stop_code.startswith(TRANSACTIONAL):
            raise ValueError("stop_code: one of 38xxx is for transactional messages, and none of them asks for consent")
        return self


class NewSender(SenderContent):
    """A sender to register."""

    sender_id: Slug = Field(
        description="The id of the sender for all calls: 2 to 40 small letters, digits and hyphens. The id never"
        " changes."
    )


class ChangedSender(SenderContent):
    """A sender's new content: each field replaces the former value."""

    sender_id: Slug | None = Field(None, description="The id of the sender; if given, equal to the path.")


class ReachBody(BaseModel):
    """A statement that a STOP code can be reached from an overseas place."""

    place: str = Field(description="The place, ISO 3166-1 alpha-2.")
    stated_by: str = Field(description="The person who stated the reach, by `sub` of the token.")
    stated_at: datetime = Field(description="The time of the statement.")


class SenderFinding(BaseModel):
    """A remark on a sender, which was registered all the same."""

    field: str
    reason: Literal["country_not_covered"] = Field(
        description="`country_not_covered`: the law's data has no rules for the country, so marketing to its numbers is"
        " denied, and national writings of its numbers are not read."
    )
    detail: str


class SenderBody(BaseModel):
    """A sender, as registered."""

    sender_id: str
    version: int = Field(description="The version of the sender: each change has a higher one.")
    legal_name: str
    brand: str
    contact: str = Field(
        description="The address or number at which people reach the sender, as the answer to CONTACT gives it."
    )
    country: str
    oadc: str
    stop_code: str
    stop_code_class: Literal["marketing", "transactional"] = Field(
        description="The class of `stop_code`: 36xxx is marketing, 38xxx transactional (AF2M)."
    )
    purposes: tuple[PurposeBody, ...] = Field(
        description="The purposes for which the sender asks consent; none for a transactional STOP code."
    )
    controller: str
    stop_scope: StopScope
    replies: RepliesBody
    double_opt_in_hours: int
    renewal_days: int | None
    abroad: tuple[str, ...]
    authorisation: str | None
    reachable_in: tuple[str, ...]
    reach_stated: tuple[ReachBody, ...] = Field(description="The author and the time of each of these statements.")
    stop_page: str | None = Field(description="The address of the sender's stop links; null: no page is configured.")
    findings: tuple[SenderFinding, ...] = Field(
        description="What stands against the sender's work, known from the start; empty: nothing."
    )


class SenderVersion(SenderBody):
    """A version of a sender."""

    in_force_from: datetime = Field(description="The time from which the version counts.")
