"""The development operator (`stack.simulator`): the JSON of `standard`, in batches of up to 1,000."""

from collections.abc import Mapping
from dataclasses import replace

from dispatch.gateways import standard
from dispatch.gateways.standard import read, request

URL = ""
NEEDS = ("url", "secret")
OPTIONS: Mapping[str, bool] = {}
capabilities = replace(standard.capabilities, batch=1000)

__all__ = ["NEEDS", "OPTIONS", "URL", "capabilities", "read", "request"]
