"""Make all checks of a Placet, as an operator with webhooks or with topics."""

import secrets
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import aiohttp

from placet_client import AsyncPlacet
from placet_operator.checking import Finding, NotSeen, findings
from placet_operator.placet import webhook
from placet_operator.placet.account import Account
from placet_operator.placet.reading import Reading
from placet_operator.texts import numbers

A_CHECK = 4  # times as long as a single wait


@dataclass(frozen=True, slots=True)
class Asked:
    """What to check. `inbound`, `consent`: URLs of the services. `sender_id`: of the sender that has `code`."""

    inbound: str
    consent: str
    token: str = field(repr=False)
    sender_id: str
    code: str
    within_s: float = 30.0
    only: frozenset[str] = frozenset()


async def check_webhook(asked: Asked, account: str, secret: str) -> list[Finding]:
    """Play an operator who calls an account of `standard`."""
    async with AsyncExitStack() as leaving:
        reading = Reading(await leaving.enter_async_context(_api(asked)), asked.sender_id, asked.within_s)
        http = await leaving.enter_async_context(aiohttp.ClientSession())
        seat = Account(asked.inbound.rstrip("/"), account, secret, asked.code, http, reading, _numbers())
        chosen = [each for each in webhook.CHECKS if not asked.only or each.name in asked.only]
        return await findings(chosen, seat, A_CHECK * asked.within_s)


async def check_kafka(asked: Asked, bootstrap: str, operator: str, prefix: str = "") -> list[Finding]:
    """Play an operator who writes on Kafka. Raises NotSeen where aiokafka is not installed."""
    try:
        from placet_operator.placet import kafka
    except ImportError:
        raise NotSeen("install placet-operator[kafka]: this environment has no aiokafka") from None
    async with AsyncExitStack() as leaving:
        reading = Reading(await leaving.enter_async_context(_api(asked)), asked.sender_id, asked.within_s)
        topics = kafka.Topics(bootstrap, operator, asked.code, reading, _numbers(), prefix)
        leaving.push_async_callback(topics.close)
        chosen = [each for each in kafka.CHECKS if not asked.only or each.name in asked.only]
        return await findings(chosen, topics, A_CHECK * asked.within_s)


def _api(asked: Asked) -> AsyncPlacet:
    return AsyncPlacet(asked.token, inbound_url=asked.inbound, consent_url=asked.consent)


def _numbers() -> Iterator[str]:
    return numbers(secrets.randbelow(4000))
