"""The HTTP bodies of rectifications, and the checks of each field."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from common.web.fields import Long, Short, storable
from consent.bodies import EXAMPLE_NUMBER, Body, Number, Source
from consent.ledger.corrections import Wrong


def _no_field_of_ours(value: str) -> str:
    if value == "stop":
        raise ValueError("the STOP mention is no attribute of anybody")
    return value


FieldName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,40}$"), AfterValidator(_no_field_of_ours)]
FieldValue = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(storable)
]


class AskedBody(Body):
    """The request for a rectification: channel (`source`), actor, and the person's own words."""

    source: Source
    actor: Short | None = None
    statement: Long | None = None


class ContactBody(Body):
    """The right values of a contact, by field; null removes a field. `sender_id` null: contacts of every sender."""

    kind: Literal["contact"]
    sender_id: Short | None
    fields: dict[FieldName, FieldValue | None] = Field(min_length=1, max_length=60)


class NumberBody(Body):
    """The number was wrong, or no longer belongs to the person. `sender_id` null: for every sender."""

    kind: Literal["number"]
    sender_id: Short | None


class RightBody(Body):
    """The form or the text which the person really saw."""

    form_id: Short | None = None
    form_version: Short | None = None
    text_shown: Long | None = None


class LineBody(Body):
    """A line of the ledger is wrong. `wrong`: the wrong parts; `person`: the line concerns another person."""

    kind: Literal["evidence"]
    evidence_id: Short
    wrong: tuple[Wrong, ...] = Field(min_length=1, max_length=10)
    right: RightBody = RightBody()


class RectificationBody(Body):
    """A rectification: the person's number, the request, and the correction."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "number": EXAMPLE_NUMBER,
                    "asked": {"source": "call-centre", "actor": "agent-12", "statement": "My name is Zoé"},
                    "correct": {"kind": "contact", "sender_id": None, "fields": {"first_name": "Zoé", "city": None}},
                }
            ]
        }
    )

    number: Number
    asked: AskedBody
    correct: Annotated[ContactBody | NumberBody | LineBody, Field(discriminator="kind")]


class RectificationView(BaseModel):
    """A rectification and its progress. `evidence_id`: the line appended to the ledger; `annulled`: the wrong line no
    longer counts. `asked`: null once erased. `rectified`: counts by service; `messages` had not left and got new text.
    """

    rectification_id: str
    subject_id: str
    kind: Literal["contact", "number", "evidence"]
    sender_id: str | None
    status: Literal["open", "complete"]
    source: str
    asked: dict[str, object] | None
    evidence_id: str | None
    annulled: bool
    requested_at: datetime
    completed_at: datetime | None
    rectified: dict[str, dict[str, int]]
    waiting_for: list[str]
