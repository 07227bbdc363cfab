"""The HTTP bodies of the sender registry, and the checks of each field."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, model_validator

from common.contracts.consent import RETENTION_MONTHS, StopScope
from common.web.fields import Short, Slug, storable
from consent.answers.replies import question_flaws
from consent.bodies import Body
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


Reply = Annotated[str, StringConstraints(min_length=1, max_length=306), AfterValidator(storable)]  # two SMS in GSM-7
Asked = Annotated[Reply, AfterValidator(_asks)]


class PurposeBody(Body):
    """A purpose for which the sender asks consent. `retention_months`: how long a consent holds after the person's last
    contact, within the CNIL limit."""

    id: Slug
    wording: Short
    retention_months: int = Field(default=RETENTION_MONTHS, ge=1, le=RETENTION_MONTHS)


class RepliesBody(Body):
    """The sender's own texts for SMS answers, two SMS at most, without advertising; null: Placet's text.

    `stop`: names the brand, has no link. `contact`: « édité par » and the legal name; its only link is the sender's
    `contact`. `start`: names the brand and tells of STOP. `double_opt_in`: the question answered by OUI; the text needs
    the fields {brand}, {purpose} and {stop_code}, and {link} for an SMS with a link. The link to the preference page is
    added to answers where it fits.
    """

    stop: Reply | None = None
    contact: Reply | None = None
    double_opt_in: Asked | None = None
    start: Reply | None = None


Country = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]


class SenderContent(Body):
    """A sender without the id. `controller`: id of the legal entity, which several senders may share; by default, a new
    sender stands alone. `stop_scope`: whether a STOP to this sender covers the whole controller or this sender only."""

    legal_name: Short
    brand: Short
    contact: Short
    country: Country
    oadc: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]{3,11}$"), AfterValidator(_with_a_letter)]
    stop_code: Annotated[str, StringConstraints(pattern=r"^3[68]\d{3}$")]
    purposes: tuple[PurposeBody, ...] = Field(max_length=100)
    controller: Slug | None = None
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
    sender_id: Slug


class ChangedSender(SenderContent):
    sender_id: Slug | None = None  # if given, equal to the path


class ReachBody(BaseModel):
    place: str
    stated_by: str
    stated_at: datetime


class SenderBody(BaseModel):
    sender_id: str
    version: int
    legal_name: str
    brand: str
    contact: str
    country: str
    oadc: str
    stop_code: str
    stop_code_class: Literal["marketing", "transactional"]
    purposes: tuple[PurposeBody, ...]
    controller: str
    stop_scope: StopScope
    replies: RepliesBody
    double_opt_in_hours: int
    renewal_days: int | None
    abroad: tuple[str, ...]
    reachable_in: tuple[str, ...]
    reach_stated: tuple[ReachBody, ...] = Field(description="The author and the time of each of these statements.")
    stop_page: str | None = Field(description="The address of the sender's stop links; null: no page is configured.")


class SenderVersion(SenderBody):
    in_force_from: datetime
