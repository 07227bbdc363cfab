"""PLACET_GATEWAYS as an operator writes it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dispatch.gateways import gateway_name
from dispatch.gateways.settings import GatewaySettings
from inbound.operators import PROVIDER as KAFKA
from inbound.providers import PROVIDERS as CALLERS
from inbound.service import AccountSettings

SMPP: dict[str, Any] = {"provider": "smpp", "url": "smpp://smsc.example.net:2775", "user": "lune", "secret": "s"}


def test_an_option_that_is_a_number_may_be_written_as_one() -> None:
    options = {"binds": 4, "window": "10"}
    assert GatewaySettings(**SMPP, options=options).options == {"binds": "4", "window": "10"}
    with pytest.raises(ValidationError, match=r"options\.binds"):
        GatewaySettings(**SMPP, options={"binds": True})


@pytest.mark.parametrize("provider", [*CALLERS, KAFKA])
def test_receipts_may_come_to_whatever_account_inbound_has(provider: str) -> None:
    for account in ("main", "a-2"):
        name = gateway_name(provider, account)
        assert GatewaySettings(**SMPP, receipts=name).receipts == name


def test_the_examples_are_taken_and_are_of_the_same_accounts() -> None:
    written = (Path(__file__).parents[3] / "docs/providers.md").read_text().replace("…", "0123456789abcdef")
    callers, gateways = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", written, re.DOTALL))
    accounts = {(each.provider, each.account) for each in (AccountSettings(**told) for told in callers)}
    assert accounts == {(each.provider, each.account) for each in (GatewaySettings(**told) for told in gateways)}
