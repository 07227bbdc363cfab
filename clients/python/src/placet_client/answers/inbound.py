"""What inbound-svc answers.

Written by `make client` from the OpenAPI documents: edit the services, not this file.
"""

from __future__ import annotations

import datetime as dt
from typing import Literal

from placet_client.answer import Answer


class Decision(Answer):
    """A reviewer's decision on a text."""

    intent: Literal["stop", "start", "confirm", "contact", "erase", "review", "none"] | str
    """The meaning that the reviewer gave the text."""
    note: str | None
    """Null without a note, and after the encryption key's deletion."""
    decided_by: str
    """The reviewer, by `sub` of the token."""
    decided_at: dt.datetime
    """The time of the decision."""
    takes_effect_at: dt.datetime
    """From this instant the decision counts, and can no longer be undone; a STOP counts at once."""
    in_effect: bool
    """True: the decision is published, and stands."""


class DecisionsAnswer(Answer):
    """The results of a call that decides several texts."""

    items: list[Result]
    """A result for each text, in request order."""


class Proposal(Answer):
    """A line that a developer may take into the keyword lists, or leave."""

    line: str
    """The words of the texts, folded as the reader folds them, without numbers."""
    intents: dict[str, int]
    """The decisions on these texts, by meaning."""
    people: int
    """The people who wrote these words, two at least."""
    rules: list[str]
    """The rules that put the texts in review."""


class Proposals(Answer):
    """The lines proposed, the most people first."""

    items: list[Proposal]
    """The lines, from the newest 5,000 decisions in effect."""


class Reply(Answer):
    """A text from a person. `subject_id`: the person's id with the controller of the code."""

    mo_id: str
    """The id of the text, a UUID, the same for each repeat by the operator."""
    subject_id: str
    """The person, by the id with the sender's controller (`sub_…`); no answer has the number."""
    short_code: str
    """The number that the person wrote to: a short code such as 36180, or a long number."""
    state: Literal["held", "read"] | str
    """`held`: the text waits for a reviewer, and marketing to the person waits too."""
    intent: Literal["stop", "start", "confirm", "contact", "erase", "review", "none"] | str
    """The meaning by our rules, or by the reviewer."""
    occurred_at: dt.datetime
    """The operator's time."""
    received_at: dt.datetime
    """The time at which Placet first held the text, the opt-out or the evidence."""
    decided_at: dt.datetime | None
    """The time of the reviewer's decision."""


class Result(Answer):
    """The result for a text."""

    mo_id: str
    """The id of the text, a UUID, the same for each repeat by the operator."""
    result: Literal["decided", "unchanged", "refused"] | str
    """`unchanged`: the same person decided the same before."""
    reason: str | None
    """`unknown_review`, `already_decided` by another person or otherwise, or `only_a_stop`; null without a
    refusal.
    """


class ReviewItem(Answer):
    """A text in review. `subject_id`: the platform's own id of the person, for the platform's operator alone."""

    mo_id: str
    """The id of the text, a UUID, the same for each repeat by the operator."""
    subject_id: str
    """The platform's own id of the person."""
    provider: str
    """The provider, by its name in docs/providers.md, such as `ovh`."""
    account: str
    """The account with the provider, by its name in the settings of the platform, such as `main`."""
    provider_message_id: str
    """The provider's id of the text, for its support."""
    short_code: str
    """The number that the person wrote to: a short code such as 36180, or a long number."""
    text: str | None
    """Null after the encryption key's deletion."""
    concern: Literal["doubt", "unread", "erasure", "access", "source", "wrong_number", "return"] | str
    """The lane of the queue. `doubt`: the text may ask to stop. `unread`: no list has the script or the language.
    `erasure`, `access` (to the person's data), `source` (of the number), `wrong_number`, `return` (after a
    STOP): the text asks for this, and a person answers within the time of the law.
    """
    rule: str
    """The rule that put the text in review."""
    suggestion: Literal["stop", "start", "confirm", "contact", "erase", "review", "none"] | str | None
    """The likely meaning, by the concern; null where no rule has one. The reviewer decides."""
    like: str | None
    """The same for all texts of the same words and concern, numbers aside, so that one call decides them; null
    without a word.
    """
    due_at: dt.datetime
    """When a person has read the text at the latest: a day for what may be a STOP, and within the month of the law
    (RGPD art. 12) for a right.
    """
    score: float
    """How sure the rule is, from 0 to 1."""
    sent_before: str
    """For an hour: the ticket by which `POST /v1/messages/before-reviews` of dispatch-svc returns the messages
    that the person was sent before the text.
    """
    occurred_at: dt.datetime
    """The operator's time of the text."""
    received_at: dt.datetime
    """The time at which Placet first held the text, the opt-out or the evidence."""
    behind_start: bool
    """True for a STOP that arrived after a START with a later operator timestamp. Decide `stop` or `none`."""
    no_sender: bool
    """True for a STOP to a code that no sender has. `stop` stops every sender; decide `stop` or `none`."""
    decision: Decision | None
