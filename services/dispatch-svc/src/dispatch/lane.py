"""The lanes of messages: a transactional message waits neither for a campaign nor for its decisions. Pure."""

from enum import StrEnum

from common.contracts.campaign import Category


class Lane(StrEnum):
    """The lane of a message. Service messages leave by the transactional lane."""

    MARKETING = "marketing"
    TRANSACTIONAL = "transactional"


def lane_of(category: Category) -> Lane:
    return Lane.MARKETING if category == "marketing" else Lane.TRANSACTIONAL
