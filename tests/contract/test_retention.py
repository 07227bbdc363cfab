"""No table is forgotten: for each it is said how long its rows are kept, in code and in docs/retention.md alike."""

import importlib
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Index, MetaData, Table

from campaign.planning.planner import ON_RECORD
from common.privacy.pruning import KEPT_BY_ALL, Policy, Pruned
from dispatch.privacy import pruning as dispatch_pruning

SERVICES = ("campaign", "consent", "dispatch", "inbound")
PRUNING = {
    "campaign": "campaign.privacy.pruning",
    "consent": "consent.retention.pruning",
    "dispatch": "dispatch.privacy.pruning",
    "inbound": "inbound.pruning",
}
SCHEMA = {
    "campaign": "campaign.schema",
    "consent": "consent.schema",
    "dispatch": "dispatch.schema",
    "inbound": "inbound.store",
}
PAGE = Path(__file__).parents[2] / "docs" / "retention.md"

each_service = pytest.mark.parametrize("service", SERVICES)


def policy(service: str) -> Policy:
    pruning = importlib.import_module(PRUNING[service])
    found: Policy = pruning.policy(pruning.Periods())
    return found


def tables(service: str) -> MetaData:
    importlib.import_module(f"{service}.service")  # every module that defines one
    found: MetaData = importlib.import_module(SCHEMA[service]).metadata
    return found


@each_service
def test_of_every_table_it_is_said_how_long_its_rows_are_kept_and_of_no_other(service: str) -> None:
    assert policy(service).tables == set(tables(service).tables)


@each_service
def test_a_table_stays_as_it_is_or_is_pruned(service: str) -> None:
    pruned = {rule.table for rule in policy(service).pruned}
    assert pruned.isdisjoint({*policy(service).kept, *KEPT_BY_ALL})


@each_service
def test_what_is_stripped_may_be_null(service: str) -> None:
    for rule in policy(service).pruned:
        for column in rule.strips:
            assert tables(service).tables[rule.table].c[column].nullable, (rule.kind, column)
            assert f"{column} IS NOT NULL" in rule.where, (rule.kind, column)


@each_service
def test_what_is_past_its_time_is_found_by_an_index(service: str) -> None:
    """One that begins with the instant, and holds no row that the rule is not about."""
    for rule in policy(service).pruned:
        assert any(_finds(index, rule) for index in _since_table(service, rule).indexes), rule.kind


def _since_table(service: str, rule: Pruned) -> Table:
    return tables(service).tables[rule.join.split()[1] if rule.join else rule.table]


def _finds(index: Index, rule: Pruned) -> bool:
    condition = index.dialect_options["postgresql"]["where"]
    first = next(iter(index.columns), None)
    return (
        first is not None
        and first.name == rule.since.removeprefix("p.")
        and (condition is None or str(condition) in rule.where)
    )


@each_service
def test_the_page_says_what_the_code_does(service: str) -> None:
    lines = PAGE.read_text().replace("`", "").splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    said = {tuple(row[:2]): row[-1] for row in cells if len(row) == 5 and row[0].startswith(f"{service}.")}
    found = policy(service)
    done = {(f"{service}.{rule.table}", rule.kind): _told(rule) for rule in found.pruned}
    stays = {(f"{service}.{table}", "all"): why for table, why in found.kept.items()}
    assert said == done | stays


def _told(rule: Pruned) -> str:
    whole_days = rule.keep == timedelta(days=rule.keep.days)
    period = f"{rule.keep.days} days" if whole_days else f"{rule.keep // timedelta(hours=1)} h"
    return f"{period}, then without {' and '.join(rule.strips)}" if rule.strips else f"{period}, then gone"


def test_the_ledger_has_a_message_for_longer_than_a_request_may_be_repeated() -> None:
    """Else the repeat of a message that left would be a second one."""
    least = dispatch_pruning.Periods(contents_days=dispatch_pruning.LATE_DAYS, messages_days=dispatch_pruning.LATE_DAYS)
    kept = [rule.keep for rule in dispatch_pruning.policy(least).pruned if rule.kind == "messages"]
    assert kept > [ON_RECORD]
