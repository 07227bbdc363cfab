"""Pulls: ask providers for the MOs and DLRs that no callback told.

A provider with a list is a module here and a line below.
"""

from collections.abc import Mapping

from inbound.pulls import infobip, ovh, plivo, sinch, telnyx, twilio, vonage
from inbound.pulls.listing import Keys, Listing

LISTINGS: Mapping[str, Listing] = {
    "infobip": infobip,
    "ovh": ovh,
    "plivo": plivo,
    "sinch": sinch,
    "telnyx": telnyx,
    "twilio": twilio,
    "vonage": vonage,
}

__all__ = ["LISTINGS", "Keys", "Listing"]
