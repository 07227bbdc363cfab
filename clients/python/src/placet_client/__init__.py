"""The Python client of Placet: consents, campaigns and messages, sync and async, typed.

from placet_client import Placet

with Placet() as placet:  # PLACET_TOKEN, PLACET_CONSENT_URL, …
    placet.consents.create(sender_id="maison-lune", purpose="promotions", number=…, occurred_at=…, evidence=…)
"""

from placet_client.answer import Answer, Page
from placet_client.client import AsyncPlacet, Placet
from placet_client.operation import AsyncDownload, AsyncPages, Download, Pages
from placet_client.problem import (
    BadRequest,
    Conflict,
    CutOff,
    FieldError,
    Forbidden,
    Gone,
    Invalid,
    NotConfigured,
    NotFound,
    PlacetError,
    PreconditionFailed,
    Problem,
    ServiceError,
    TooManyRequests,
    Unauthenticated,
    Unreachable,
    UnreadableAnswer,
)
from placet_client.request import OMITTED, Omitted
from placet_client.retrying import Retrying
from placet_client.webhooks import NotGenuine, Webhook, verify

__all__ = [
    "OMITTED",
    "Answer",
    "AsyncDownload",
    "AsyncPages",
    "AsyncPlacet",
    "BadRequest",
    "Conflict",
    "CutOff",
    "Download",
    "FieldError",
    "Forbidden",
    "Gone",
    "Invalid",
    "NotConfigured",
    "NotFound",
    "NotGenuine",
    "Omitted",
    "Page",
    "Pages",
    "Placet",
    "PlacetError",
    "PreconditionFailed",
    "Problem",
    "Retrying",
    "ServiceError",
    "TooManyRequests",
    "Unauthenticated",
    "Unreachable",
    "UnreadableAnswer",
    "Webhook",
    "verify",
]
