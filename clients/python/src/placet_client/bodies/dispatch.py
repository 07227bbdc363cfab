"""Parts of what dispatch-svc takes.

Written by `make client` from the OpenAPI documents: edit the services, not this file.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Literal, NotRequired, TypedDict


class Send(TypedDict):
    """A message to one person, outside any campaign: from a template, or with a free text."""

    sender_id: str
    """The sender, by the id of its registration, such as `maison-lune`."""
    to: str
    """A mobile number in any usual notation."""
    country: NotRequired[str | None]
    """The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2. Default: the sender's
    country and those abroad; without a sender, those of the senders that the token covers.
    """
    category: Literal["transactional", "service", "marketing"]
    """The lane. A service message waits for courtesy hours, a transactional message goes at any hour."""
    template_id: NotRequired[str | None]
    """An approved template of the sender."""
    version: NotRequired[int | None]
    """Null: the newest approved version."""
    values: NotRequired[Mapping[str, str]]
    """The values of the template's fields."""
    text: NotRequired[str | None]
    """A free text, at most ten SMS. Outside marketing, the text needs the scope `message:send:free_text`, and may
    not look like advertising.
    """
    purpose: NotRequired[str | None]
    """The consent's purpose; required for marketing."""
    override_reason: NotRequired[str | None]
    """The reason for which a free text leaves although the text looks like advertising. Needs the scope
    `message:send:override`, and is audited.
    """
    send_before: NotRequired[dt.datetime | None]
    """The message expires at this instant; default: in a day."""
    postcode: NotRequired[str | None]
    """The postcode of the person's address, for regional holidays and hours."""
