"""PLACET_GATEWAYS as an operator writes it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dispatch.gateways import PROVIDERS, Bounds, gateway_name
from dispatch.gateways.settings import GatewaySettings, refuse_unanswered
from inbound.operators import PROVIDER as KAFKA
from inbound.providers import PROVIDERS as CALLERS
from inbound.providers import Callback
from inbound.service import AccountSettings

ROOT = Path(__file__).parents[3]
SMPP: dict[str, Any] = {"provider": "smpp", "url": "smpp://smsc.example.net:2775", "user": "lune", "secret": "s"}


def test_an_option_that_is_a_number_may_be_written_as_one() -> None:
    options = {"binds": 4, "window": "10"}
    assert GatewaySettings(**SMPP, options=options).options == {"binds": "4", "window": "10"}
    with pytest.raises(ValidationError, match=r"options\.binds"):
        GatewaySettings(**SMPP, options={"binds": True})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"secret": "nine-long"}, "at most 8 ASCII characters as secret"),
        ({"user": "sixteen-letters-"}, "at most 15 ASCII characters as user"),
        ({"user": "lüne"}, "ASCII"),
        ({"options": {"system_type": "thirteen-long"}}, "at most 12 ASCII characters as system_type"),
        ({"options": {"window": 0}}, "`window` is a number from 1 to 1000"),
        ({"options": {"binds": "two"}}, "`binds` is a number from 1 to 100"),
        ({"options": {"bind": "receiver"}}, "`bind` is one of transceiver, pair, transmitter"),
        ({"options": {"long_messages": "whole"}}, "`long_messages` is parts or payload"),
        ({"options": {"more_hosts": "b.example.net:x"}}, "`more_hosts` are host:port"),
    ],
)
def test_what_smpp_cannot_carry_is_refused_at_the_start_with_what_it_takes(wrong: dict[str, Any], said: str) -> None:
    """A password of nine characters ended the process at its first message."""
    with pytest.raises(ValidationError, match=re.escape(said)) as refused:
        GatewaySettings(**SMPP | wrong)
    assert "nine-long" not in str(refused.value)


def test_receipts_come_by_the_binds_or_by_the_account_that_is_named() -> None:
    assert GatewaySettings(**SMPP, account="orange").told_by == {"kafka.orange"}
    assert GatewaySettings(**SMPP).told_by == {"kafka"}
    elsewhere = GatewaySettings(**SMPP, receipts="jasmin", options={"bind": "transmitter"})
    assert elsewhere.told_by == {"jasmin"}
    assert not elsewhere.hears


@pytest.mark.parametrize("provider", [*CALLERS, KAFKA])
def test_receipts_may_come_to_whatever_account_inbound_has(provider: str) -> None:
    for account in ("main", "a-2"):
        name = gateway_name(provider, account)
        assert GatewaySettings(**SMPP, receipts=name).receipts == name


def test_the_examples_are_taken_and_are_of_the_same_accounts() -> None:
    written = (ROOT / "docs/providers.md").read_text().replace("…", "0123456789abcdef")
    callers, gateways = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", written, re.DOTALL))
    accounts = {(each.provider, each.account) for each in (AccountSettings(**told) for told in callers)}
    accepted = [GatewaySettings(**told) for told in gateways]
    assert accounts == {(each.provider, each.account) for each in accepted}
    refuse_unanswered(accepted)


def test_the_files_of_a_kannel_fit_each_other() -> None:
    page = (ROOT / "docs/operators/kannel.md").read_text()
    page = re.sub(r"<path secret>|<sendsms password>|<inbound-svc>|<secret>|<password>", "0123456789abcdef", page)
    [kannel] = re.findall(r"```ini\n(.*?)```", page, re.DOTALL)
    told = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL)]
    [account] = [each for each in told if "path_secrets" in each]
    [gateway] = [each for each in told if "callback_url" in each]
    sends, called = GatewaySettings(**gateway), AccountSettings(**account)
    refuse_unanswered([sends])
    assert gateway_name(called.provider, called.account) == sends.name
    written = dict(line.split(" = ") for line in kannel.splitlines() if " = " in line and not line.startswith("#"))
    assert (written["username"], int(written["max-messages"])) == (sends.user, 0), "of a reply; of a text, above it"
    assert f"max-messages = {sends.capabilities.segments}\n" in kannel
    url = written["get-url"].strip('"')
    for sign, value in {"i": "smsc", "p": "%2B33639980001", "P": "36111", "b": "STOP", "C": "UTF-8"}.items():
        url = url.replace(f"%{sign}", value)
    url = url.replace("%T", "1790000000").replace("%I", "an-id")
    [message] = CALLERS["kannel"].parse_messages(_called(url))
    assert (message.text, message.short_code, message.provider_message_id) == ("STOP", "36111", "an-id")
    assert message.sent_at is not None
    assert sends.callback_url is not None
    told_to = sends.callback_url.get_secret_value()
    assert told_to.rpartition("/")[0] == url.rpartition("/messages?")[0]
    [receipt] = CALLERS["kannel"].parse_receipts(_called(f"{told_to}?id=our-id&status=1"))
    assert (receipt.reference, receipt.state) == ("our-id", "delivered")


@pytest.mark.parametrize("page", sorted((ROOT / "docs/operators").glob("*.md")), ids=lambda page: page.stem)
def test_each_gateway_of_the_handbook_has_a_way_for_the_answer_to_a_stop(page: Path) -> None:
    written = re.sub(r"<[a-z -]+>", "secret", page.read_text())
    decoder = json.JSONDecoder()
    starts = [found.start() for found in re.finditer(r'\{"provider"', written)]
    told = [decoder.raw_decode(written, start)[0] for start in starts]
    gateways = [GatewaySettings(**each) for each in told if "secret" in each or each["provider"] == "kafka"]
    refuse_unanswered(gateways)
    assert {"kannel": 1, "jasmin": 1, "kafka": 1, "check": 1}.get(page.stem, 0) == len(gateways)


def _called(url: str) -> Callback:
    return Callback(target=url, headers={}, body=b"", method="GET", address="", path_secret=None)


KANNEL: dict[str, Any] = {"provider": "kannel", "url": "http://kannel.example:13013", "user": "lune", "secret": "s"}
OVH: dict[str, Any] = {
    "provider": "ovh",
    "user": "lune",
    "secret": "s",
    "options": {"consumer_key": "c", "service": "sms-ab123-1"},
}
REFUSED: tuple[tuple[str, list[dict[str, Any]]], ...] = (
    ("kannel takes marketing to any place of any sender", [KANNEL]),
    (
        "smpp takes marketing to FR of any sender",
        [{**SMPP, "routes": [{"territories": ["FR"], "categories": ["marketing"]}]}],
    ),
    (
        "smpp takes marketing to any place of lune",
        [{**SMPP, "routes": [{"senders": ["lune"], "categories": ["marketing"]}, {"senders": ["soleil"]}]}],
    ),
    (
        "smpp takes marketing to any place of any sender",
        [{**SMPP, "routes": [{"categories": ["marketing"]}, {"territories": ["FR"], "categories": ["service"]}]}],
    ),
    (
        "kannel takes marketing to RE of any sender",
        [{**KANNEL, "routes": [{"territories": ["RE"]}]}, {**SMPP, "routes": [{"territories": ["FR"]}]}],
    ),
    (  # "Cœur de Lune" has a letter outside GSM 7-bit
        "ovh takes marketing to any place of any sender",
        [
            {**OVH, "routes": [{"categories": ["marketing"]}]},
            {"provider": "smsmode", "secret": "s", "routes": [{"categories": ["service"]}]},
        ],
    ),
)


@pytest.mark.parametrize(("whom", "gateways"), REFUSED)
def test_marketing_to_people_whose_stop_no_route_answers_is_refused(whom: str, gateways: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=f"{whom}, and no route takes the answer to a STOP there: add a route"):
        refuse_unanswered([GatewaySettings(**told) for told in gateways])


NO_MARKETING: dict[str, dict[str, Any]] = {
    "allmysms": {"user": "lune", "secret": "s"},
    "contact-everyone": {"secret": "s", "options": {"sender": "MAISONLUNE"}},
    "mailjet": {"secret": "s"},
    "smsmode": {"secret": "s"},
}


@pytest.mark.parametrize("provider", NO_MARKETING)
@pytest.mark.parametrize("routes", [None, [{"territories": ["FR"]}], [{"categories": ["service", "marketing"]}]])
def test_marketing_by_a_provider_whose_stops_come_to_nobody_is_refused(
    provider: str, routes: list[dict[str, Any]] | None
) -> None:
    told = {"provider": provider, **NO_MARKETING[provider]}
    with pytest.raises(ValidationError, match=f"{provider} may have no marketing"):
        GatewaySettings(**told, **({} if routes is None else {"routes": routes}))
    right = {"categories": ["transactional", "service"], "senders": ["lune"]}
    assert GatewaySettings(**told, routes=[right]).name == provider


def test_a_gateway_of_one_sender_has_routes_of_that_sender() -> None:
    """The answer to a STOP of another sender would be refused until it lapses."""
    told = {"provider": "contact-everyone", **NO_MARKETING["contact-everyone"]}
    with pytest.raises(ValidationError, match="contact-everyone sends for one sender: name that one in the senders"):
        GatewaySettings(**told, routes=[{"categories": ["service"]}])


def test_whoever_may_have_no_marketing_is_in_the_table_above() -> None:
    assert {name for name, each in PROVIDERS.items() if not each.capabilities.marketing} == set(NO_MARKETING)


def test_marketing_by_one_gateway_may_have_its_answers_by_another() -> None:
    by_kannel = {**KANNEL, "routes": [{"categories": ["marketing"]}]}
    by_smpp = {**SMPP, "routes": [{"categories": ["service"]}]}
    refuse_unanswered([GatewaySettings(**by_kannel), GatewaySettings(**by_smpp)])
    refuse_unanswered([GatewaySettings(**KANNEL, segments=2)])


def test_connections_are_bounded_where_the_gateway_has_some() -> None:
    assert GatewaySettings(**KANNEL).bounds == Bounds(most=128, opening=4)
    assert GatewaySettings(**KANNEL, connections=9, connections_opening=2).bounds == Bounds(most=9, opening=2)
    with pytest.raises(ValidationError, match="smpp has no HTTP connections"):
        GatewaySettings(**SMPP, connections=9)
