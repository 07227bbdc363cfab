"""The rules of a review: the suggestion, the time to answer, when a decision takes effect, which texts are alike. Pure.

A suggestion decides no text: the person who reads the text gives the intent.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from common.contracts.inbound import Concern, Intent, MessageReceived
from common.privacy.sent_before import GOOD_FOR, Before
from inbound.keywords.normal import normalise

LIKELY: Mapping[Concern, Intent | None] = {
    "doubt": "stop",
    "unread": None,  # no list has the script or the language, so no rule has a guess
    "erasure": "stop",  # and then the erasure
    "wrong_number": "stop",
    "access": "contact",
    "source": "contact",
    "return": "start",
}
A_DAY = timedelta(days=1)  # marketing to the person waits for the answer
A_MONTH = timedelta(days=30)  # RGPD art. 12 (3) gives a month from receipt
WITHIN: Mapping[Concern, timedelta] = {
    "doubt": A_DAY,
    "unread": A_DAY,
    "wrong_number": A_DAY,
    "return": A_DAY,
    "erasure": A_MONTH - A_DAY,  # the erasure itself takes up to a day
    "access": A_MONTH - A_DAY,
    "source": A_MONTH - A_DAY,
}


def suggested(event: MessageReceived) -> Intent | None:
    """Return the likely meaning, where the rule that held the text has one. A STOP in the queue stays a STOP."""
    return event.intent if event.intent != "review" else LIKELY[event.concern]


def due_at(concern: Concern, received_at: datetime) -> datetime:
    """Return when a person has read the text at the latest."""
    return received_at + WITHIN[concern]


def before(event: MessageReceived, now: datetime) -> Before:
    """Return what dispatch-svc needs to find the messages before the text."""
    return Before(event.mo_id, event.subject_id, event.short_code, event.received_at, now + GOOD_FOR)


def takes_effect_at(intent: Intent, decided_at: datetime, undo: timedelta) -> datetime:
    """Return when a decision takes effect: a STOP at once, any other decision after the time to undo."""
    return decided_at if intent == "stop" else decided_at + undo


def alike(text: str) -> str:
    """Return the words of a text without numbers; texts with the same words are decided together. "" without a word."""
    normal = normalise(text)
    return " ".join(word for clause in normal.clauses for word in clause if not any(map(str.isdigit, word)))


@dataclass(frozen=True, slots=True)
class Said:
    """A decided text: its words (`alike`), the decision, the rule that held the text, and the person."""

    words: str
    intent: Intent
    rule: str
    subject_id: str


@dataclass(frozen=True, slots=True)
class Line:
    """A proposal for the keyword lists, and what speaks for it."""

    line: str
    intents: Mapping[Intent, int]
    people: int
    rules: Sequence[str]


def proposed(said: Iterable[Said], least_people: int) -> list[Line]:
    """Return a line for the words of `least_people` or more, the most people first: a person alone may be named."""
    of: dict[str, list[Said]] = defaultdict(list)
    for each in said:
        if each.words:
            of[each.words].append(each)
    lines = [
        Line(
            words,
            Counter(each.intent for each in texts),
            len({each.subject_id for each in texts}),
            sorted({each.rule for each in texts}),
        )
        for words, texts in of.items()
    ]
    return sorted((line for line in lines if line.people >= least_people), key=lambda line: (-line.people, line.line))
