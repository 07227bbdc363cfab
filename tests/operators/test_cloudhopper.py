"""Cloudhopper's SMPP server at the other end, as Jasmin's and npm's are in `tests/service/dispatch/test_by_smpp.py`."""

import pytest

from tests.service.dispatch.test_by_smpp import (
    a_kill_loses_no_mo,
    a_stop_and_a_receipt_count,
    its_answers_are_what_the_ledger_says,
)
from tests.support.infrastructure import Broker, Postgres
from tests.support.operators.smsc import CLOUDHOPPERS
from tests.support.running import Surroundings


async def test_what_cloudhopper_answers_is_what_the_ledger_says(surroundings: Surroundings) -> None:
    await its_answers_are_what_the_ledger_says(surroundings, CLOUDHOPPERS)


async def test_a_stop_and_a_receipt_that_cloudhopper_delivers_count_as_any_other(surroundings: Surroundings) -> None:
    await a_stop_and_a_receipt_count(surroundings, CLOUDHOPPERS, "smsc-1")


@pytest.mark.timeout(200)
async def test_cloudhopper_loses_no_mo_by_a_process_that_is_killed(
    postgres: Postgres, broker: Broker, unique: str
) -> None:
    await a_kill_loses_no_mo(postgres, broker, unique, CLOUDHOPPERS)
