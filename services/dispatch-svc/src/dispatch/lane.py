"""The lanes of messages: a transactional message waits neither for a campaign nor for its decisions. Pure."""

from enum import StrEnum

from common.contracts.campaign import Category


class Lane(StrEnum):
    """The lane of a message. Service messages leave by the transactional lane."""

    MARKETING = "marketing"
    TRANSACTIONAL = "transactional"


class Due(StrEnum):
    """The due messages that are decided together. An opt-out may forbid a question, and forbids no code."""

    MARKETING = "marketing"
    QUESTIONS = "questions"
    CODES = "codes"

    @property
    def lane(self) -> Lane:
        return Lane.MARKETING if self is Due.MARKETING else Lane.TRANSACTIONAL


def lane_of(category: Category) -> Lane:
    return Lane.MARKETING if category == "marketing" else Lane.TRANSACTIONAL
