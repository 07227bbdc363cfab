"""Which faults there are, on which system."""

from pathlib import Path

import pytest

from chaos import faults
from chaos.schedule import LASTS_S
from chaos.system import System, processes
from chaos.wire import Wire
from common.contracts import TOPICS
from stack.broker import Broker
from stack.environment import SERVICES, Environment
from stack.kafka import Kafka
from stack.postgres import Postgres
from stack.processes import Supervisor


def system(folder: Path, brokers: int, *, everything: bool) -> System:
    """As it would stand, with nothing started."""
    broker = Kafka(folder, folder, brokers) if brokers else Broker(folder)
    standing = System(folder, Environment(), Postgres(folder), broker, Supervisor(folder), None, None)
    standing.health = dict.fromkeys(processes(brokers), "http://127.0.0.1:1")
    to = [faults.OPERATOR, faults.CALLBACKS, *(f"{s} to the {t}" for s in SERVICES for t in ("broker", "database"))]
    standing.wires = {name: [Wire("127.0.0.1", 1)] for name in to}
    if everything:
        moved = [*SERVICES, "Postgres", *(f"broker-{n}" for n in range(1, brokers + 1))]
        standing.disk, standing.clocks = folder, {name: folder / name for name in moved}
    return standing


@pytest.mark.parametrize("brokers", [0, 1, 3])
@pytest.mark.parametrize("everything", [True, False])
def test_each_fault_has_a_way_to_be_done(tmp_path: Path, brokers: int, everything: bool) -> None:
    possible = faults.possible(system(tmp_path, brokers, everything=everything))
    assert len(possible) == len(set(possible))
    assert {each.kind for each in possible} <= faults._WAYS.keys()
    if brokers == 3 and everything:
        assert {each.kind for each in possible} == faults._WAYS.keys() >= LASTS_S.keys(), "and each way is used"


def test_every_role_of_every_service_is_killed_and_postgres_and_the_brokers(tmp_path: Path) -> None:
    killed = {each.target for each in faults.possible(system(tmp_path, 3, everything=True)) if each.kind == "kill"}
    roles = {(service, role) for service in SERVICES for role in ("api", "worker", "relay")}
    assert {processes(3)[name] for name in killed & processes(3).keys()} == roles | {("dispatch", "projection")}
    assert killed - processes(3).keys() == {"Postgres", "broker-1", "broker-2", "broker-3", "all brokers"}


def test_what_cannot_be_done_here_is_said(tmp_path: Path) -> None:
    assert faults.left_out(system(tmp_path, 3, everything=True)) == []
    told = faults.left_out(system(tmp_path, 0, everything=False))
    assert [why.split(":")[0] for why in told] == [
        "disk full",
        "clock jumps",
        "brokers killed, rebalances, logs cut, aborted transactions",
        "an unclean election",
    ]


def test_every_database_loses_commits_and_every_log_that_says_it_is_whole_is_hurt(tmp_path: Path) -> None:
    possible = faults.possible(system(tmp_path, 3, everything=True))
    assert {each.target for each in possible if each.kind == "failover"} == {f"{s}'s database" for s in SERVICES}
    assert {each.target for each in possible if each.kind == "two relays"} == set(SERVICES)
    watermarked = {topic.name for topic in TOPICS if topic.watermarked}
    for kind in ("log cut", "log cut unseen", "unclean election", "topic anew"):
        assert {each.target for each in possible if each.kind == kind} == watermarked


def test_every_clock_jumps(tmp_path: Path) -> None:
    jumping = {each.target for each in faults.possible(system(tmp_path, 3, everything=True)) if "clock" in each.kind}
    assert jumping == {*SERVICES, "Postgres", "broker-1", "broker-2", "broker-3", "the operator"}
