"""Restore every database to an instant, and lose Kafka whole, under load: `make drill`.

Each step is a disaster, then what docs/runbook.md tells a person to do, and nothing else. The checks of a chaos run
look all the while. The report says what each step lost, by table, and what told of it.
"""

import argparse
import asyncio
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import asyncpg
import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition

from chaos import logs
from chaos.checks import MARKETING, Loss, Violation, open_again
from chaos.failover import MARK_ALL
from chaos.load import Load
from chaos.report import Report, Suffered
from chaos.run import RECOVERS_WITHIN_S, conclude, loaded
from chaos.system import PROJECTION, System, processes, standing
from chaos.watching import Watch
from common.contracts import CONTROLS, STATES
from common.keyring import SubjectKeys
from common.settings import SubjectRingSettings
from stack.calling import DemoFailed
from stack.environment import PARTITIONS, SERVICES
from stack.kafka import Kafka

FOLDER = Path(".placet/drill")
BACK_S: Mapping[str, tuple[float, ...]] = {  # from the instant to the disaster, for each database
    "inbound": (5.0, 20.0),
    "campaign": (5.0, 20.0),
    "dispatch": (5.0, 20.0),
    "consent": (5.0, 20.0),
}
PEOPLE, RATE, AT_ONCE = 300, 100.0, 2
BETWEEN_S = 5.0
REPEATED_AFTER_S = 20.0  # lost requests are asked for again; 15 minutes outside of a drill
BY_API = 4  # opt-outs that no log has, within the time that is lost
FOLLOWED_WITHIN_S = 120.0
REPAIRED_WITHIN_S = 420.0  # each command starts a Python, on a machine that is busy
LOOK_EVERY_S = 0.5
TABLES = """
SELECT relname::text FROM pg_class
WHERE relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = 'public'::regnamespace
"""
OPTED_OUT = "SELECT subject_id, consent_version FROM enforcement WHERE applied_at > $1 AND source NOT LIKE 'sms%'"
KNOWN = "SELECT subject_id, version FROM subject WHERE subject_id = ANY($1::text[])"
BROKEN = "SELECT EXISTS (SELECT FROM consumer_offset WHERE fault IS NOT NULL)"
OFFSETS = "SELECT partition, next_offset FROM consumer_offset WHERE topic = $1"


@dataclass(slots=True)
class Step:
    """A disaster. `lost`: rows by table. `told`: what names the loss. `restored_s`: until the data is back."""

    what: str
    back_s: float
    restored_s: float = 0.0
    ready_s: float | None = None
    lost: dict[str, int] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        rows = ", ".join(f"{many} of {table}" for table, many in sorted(self.lost.items())) or "no row"
        back = f"to {self.back_s:.0f} s before" if self.back_s else "whole"
        ready = "never ready" if self.ready_s is None else f"ready after {self.ready_s:.0f} s"
        lines = [f"{self.what}, {back}: data back after {self.restored_s:.0f} s, {ready}", f"  lost: {rows}"]
        return "\n".join([*lines, *(f"  told: {each}" for each in self.told)])


@dataclass(slots=True)
class Drill:
    """`again`: messages that the operator took a second time, as a restored ledger had forgotten them."""

    steps: list[Step]
    again: int
    report: Report

    def text(self) -> str:
        steps = "\n".join(step.text for step in self.steps)
        twice = f"sent a second time, after a restored ledger had forgotten them: {self.again} messages"
        return f"{steps}\n\n{twice}\n\n{self.report.text()}"


async def run(folder: Path, *, seed: int, only: Sequence[str], turns: int, say: Callable[[str], None]) -> Drill:
    """Run each step in turn, wait until all has come to rest, and count."""
    chance = random.Random(seed)
    told = {"campaign": {"PLACET_REPEAT_AFTER_S": f"{REPEATED_AFTER_S:g}"}}
    async with standing(folder, brokers=1, rate=RATE, archived=True, more=told, say=say) as system:
        assert system.archive is not None
        say("a base backup, while everything runs")
        await asyncio.to_thread(system.archive.back_up, system.postgres)
        lasts_s = AT_ONCE * PEOPLE / RATE
        steps, suffered, by_api = list[Step](), list[Suffered](), list[tuple[str, str]]()
        async with loaded(system, lambda api: Load(api, seed, PEOPLE, lasts_s), say) as (load, watch):
            for turn in range(turns):
                for target in (each for each in (*BACK_S, "Kafka") if not only or each in only):
                    await asyncio.sleep(BETWEEN_S * chance.uniform(1, 2))
                    if target == "Kafka":
                        step = Step("Kafka", 0.0)
                        work = partial(lose_kafka, system, load, step, say)
                    else:
                        step = Step(f"{target}-svc's database", BACK_S[target][turn % len(BACK_S[target])])
                        work = partial(restore, system, load, target, step, by_api)
                    steps.append(step)
                    suffered.append(await _taken(system, watch, step, work, say))
            watch.note(await _still_stopped(load, by_api))
        report = await conclude(system, watch, suffered, seed=seed)
        drill = Drill(steps, _again(system), report)
    (folder / "report.txt").write_text(drill.text() + "\n")
    (folder / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(drill), indent=2) + b"\n")
    return drill


async def _taken(
    system: System, watch: Watch, step: Step, work: Callable[[], Awaitable[None]], say: Callable[[str], None]
) -> Suffered:
    say(f"{time.monotonic() - watch.started:>6.0f} s  {step.what}")
    began = time.monotonic()
    try:
        await work()
    except RuntimeError as error:
        watch.note([Violation(10, "not repaired", f"{step.what}: {error}")])
    ended = time.monotonic()
    why = await system.ready(RECOVERS_WITHIN_S)
    step.ready_s = None if why else round(time.monotonic() - began - step.back_s, 1)
    for loss in system.losses:
        loss.made_good = loss.made_good or not why
    if why:
        watch.note([Violation(0, "did not recover", f"from {step.what}: {why}")])
    say(step.text)
    recovered = None if why else round(time.monotonic() - ended, 1)
    return Suffered(0, "drill", step.what, round(began - watch.started, 1), round(ended - began, 1), recovered)


async def restore(system: System, load: Load, service: str, step: Step, by_api: list[tuple[str, str]]) -> None:
    """Lose a database, restore the database to an instant, and follow "A database was restored" of the runbook.

    `by_api` gets the sender and the number of each opt-out that consent-svc loses, and no log has.
    """
    assert system.archive is not None
    at = datetime.now(UTC)
    loss = Loss(service, at)
    system.losses.append(loss)
    stopped = await _stop_by_api(load) if service == "consent" else []
    await asyncio.sleep(step.back_s)
    for name in (of_service := _of(system, service)):
        await asyncio.to_thread(system.supervisor.kill, name)
    before, began = await _rows(system, service), time.monotonic()
    copy = f"{service}-restored"
    await system.archive.restore(system.postgres, service, at, copy)
    await system.postgres.put_back(service, copy)
    loss.until = datetime.now(UTC)
    step.restored_s = round(time.monotonic() - began, 1)
    after = await _rows(system, service)
    step.lost = {table: before[table] - after[table] for table in before if before[table] > after[table]}
    if service == "dispatch":
        await _dispatch_again(system, load, of_service)
    else:
        await _start(system, of_service)
    if service == "consent":
        by_api += stopped
        await load.repeat()
        step.told += await _record_again(system, load, at, stopped)
        step.told += [
            f"erase-again: {(await system.command('consent', 'erase-again', '--since', at.isoformat())).strip()}"
        ]


async def _dispatch_again(system: System, load: Load, names: Sequence[str]) -> None:
    """Cancel campaigns, mark every `sending` message as begun, and start the roles in the order of the runbook."""
    await load.cancel()
    sql = await asyncpg.connect(system.databases["dispatch"])
    try:
        await sql.execute(MARK_ALL)
    finally:
        await sql.close()
    workers = [name for name in names if processes(system.brokers)[name][1] not in ("relay", PROJECTION)]
    await _start(system, [name for name in names if name not in workers])
    await _until(lambda: _controls_read(system))
    await _start(system, workers)


async def _controls_read(system: System) -> bool:
    """Return whether dispatch-svc has read the controls of campaigns to their end."""
    topic = CONTROLS.name
    sql = await asyncpg.connect(system.databases["dispatch"])
    try:
        read = {row["partition"]: row["next_offset"] for row in await sql.fetch(OFFSETS, topic)}
    finally:
        await sql.close()
    consumer = AIOKafkaConsumer(bootstrap_servers=system.broker.bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        ends = await consumer.end_offsets([TopicPartition(topic, number) for number in range(PARTITIONS)])
    finally:
        await consumer.stop()
    return all(read.get(place.partition, 0) >= end for place, end in ends.items())


async def _stop_by_api(load: Load) -> list[tuple[str, str]]:
    """Opt some people out by the API, which no log repeats; return sender and number of each."""
    one = next((each for each in reversed(load.rounds) if each.campaign), None)
    if one is None:
        return []
    stopped = [(one.sender, number) for number in one.people[:BY_API]]
    for sender, number in stopped:
        await _opt_out(load, sender, number)
    return stopped


async def _opt_out(load: Load, sender: str, number: str) -> None:
    evidence = {"source": "call-centre", "actor": "agent-12"}
    told = {"sender_id": sender, "number": number, "evidence": evidence}
    await load.api.call("POST", "consent", "/v1/opt-outs", told)


async def _record_again(system: System, load: Load, since: datetime, stopped: Sequence[tuple[str, str]]) -> list[str]:
    """Record the opt-outs again that dispatch-svc has and consent-svc lost. Raises AssertionError for one not found."""
    subjects = SubjectKeys(SubjectRingSettings.model_validate_json(system.environment.subject_keys))
    ids = {subjects.subject_id(number): (sender, number) for sender, number in stopped}
    sql = await asyncpg.connect(system.databases["dispatch"])
    try:
        enforced = {row["subject_id"]: row["consent_version"] for row in await sql.fetch(OPTED_OUT, since)}
    finally:
        await sql.close()
    sql = await asyncpg.connect(system.databases["consent"])
    try:
        known = {row["subject_id"]: row["version"] for row in await sql.fetch(KNOWN, list(enforced))}
    finally:
        await sql.close()
    lost = [subject for subject, version in enforced.items() if known.get(subject, 0) < version and subject in ids]
    for subject in lost:
        await _opt_out(load, *ids[subject])
    return [f"dispatch-svc's enforcements name {len(lost)} of {len(ids)} opt-outs of the API; recorded again"]


async def _still_stopped(load: Load, by_api: Sequence[tuple[str, str]]) -> list[Violation]:
    """Check that consent-svc lets no sender write to a person whose opt-out by the API it had lost."""
    found = list[Violation]()
    for sender, number in by_api:
        asked = {"sender_id": sender, "purpose": "promotions", "numbers": [number]}
        answer = await load.api.call("POST", "consent", "/v1/consents/check", asked)
        found += open_again(sender, answer["results"])
    return found


async def lose_kafka(system: System, load: Load, step: Step, say: Callable[[str], None]) -> None:
    """Lose every log of Kafka, and follow LogBroken of the runbook for every topic."""
    assert isinstance(system.broker, Kafka)
    system.foreign = system.lost_records = True
    began = time.monotonic()
    system.broker.kill(1)
    shutil.rmtree(system.broker.folder)
    await asyncio.to_thread(system.broker.start)
    step.restored_s = round(time.monotonic() - began, 1)
    names = list(processes(system.brokers))
    for name in names:  # topics are made at a start
        await asyncio.to_thread(system.supervisor.kill, name)
    await _start(system, names)
    say(f"{time.monotonic() - began:>6.0f} s  every process runs again, on an empty Kafka")
    places = await _clear(system, load, say)
    step.told.append(f"`log list` names {sum(places.values())} partitions of {len(places)} topics; each is cleared")
    for one in (one for one in load.rounds if one.campaign and not one.over):
        for action in ("pause", "resume"):
            try:
                await load.api.call("POST", "campaign", f"/v1/campaigns/{one.campaign}/{action}", {})
            except DemoFailed as refused:  # the campaign has ended meanwhile
                step.told.append(f"{action}: {str(refused).partition(': ')[2][:3]}")
                break


async def _clear(system: System, load: Load, say: Callable[[str], None]) -> Counter[str]:
    """Publish what can be published again, and clear every place, until no reader names one; count them by topic.

    The databases say whether a service has broken logs: a look by a command would start a Python for each service, all
    the while, and take the cores from the readers.
    """
    started, began = time.monotonic(), datetime.now(UTC)
    deadline = started + REPAIRED_WITHIN_S
    seen, cleared = set[str](), set[str]()
    while True:
        faulty = [service for service in SERVICES if await _is_broken(system, service)]
        late = [
            f"{service} of {topic}"
            for topic, readers in logs.READERS.items()
            for service in readers
            if not await logs.reads_on(system, service, topic, began)
        ]
        if not faulty and not late:
            return Counter(place.partition(":")[2].partition("/")[0] for place in cleared)
        if time.monotonic() > deadline:
            why = f"broken logs in {', '.join(faulty) or 'no service'}; no new watermark in {', '.join(late) or 'none'}"
            raise RuntimeError(f"{why}; {len(cleared)} places cleared")
        listed = await asyncio.gather(*(_listed(system, service) for service in faulty))
        broken = {service: each for service, each in zip(faulty, listed, strict=True) if each}
        new = {place for each in broken.values() for place in each} - seen
        if states := [place for place in new if f":{STATES.name}/" in place]:
            await system.command("consent", "republish", "--partition", *logs.partitions_of(states))
        if new:
            await load.reconcile(logs.operators_list(system))
            say(f"{time.monotonic() - started:>6.0f} s  {len(new)} more places to clear, in {', '.join(faulty)}")
        seen |= new
        ended = await asyncio.gather(
            *(system.command(service, "log", "clear", *each) for service, each in broken.items()),
            return_exceptions=True,
        )
        for each, end in zip(broken.values(), ended, strict=True):
            if not isinstance(end, BaseException):
                cleared.update(each)
            elif not isinstance(end, RuntimeError):  # of a RuntimeError: more was found since, and is listed anew
                raise end
        await asyncio.sleep(LOOK_EVERY_S)


async def _is_broken(system: System, service: str) -> bool:
    sql = await asyncpg.connect(system.databases[service])
    try:
        return bool(await sql.fetchval(BROKEN))
    finally:
        await sql.close()


async def _listed(system: System, service: str) -> list[str]:
    lines = (await system.command(service, "log", "list")).splitlines()
    return [place for place in (line.partition("\t")[0] for line in lines) if "@" in place]


async def _rows(system: System, service: str) -> dict[str, int]:
    """Return the number of rows of each table."""
    sql = await asyncpg.connect(system.databases[service])
    try:
        tables = [row["relname"] for row in await sql.fetch(TABLES)]
        return {table: await sql.fetchval(f'SELECT count(*) FROM "{table}"') for table in tables}
    finally:
        await sql.close()


def _of(system: System, service: str) -> list[str]:
    return [name for name, (owner, _) in processes(system.brokers).items() if owner == service]


async def _start(system: System, names: Sequence[str]) -> None:
    await asyncio.gather(*(system.supervisor.restart(name) for name in names))


async def _until(look: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + FOLLOWED_WITHIN_S
    while not await look():
        if time.monotonic() > deadline:
            raise RuntimeError("dispatch-svc has not read the campaigns' controls in time")
        await asyncio.sleep(LOOK_EVERY_S)


def _again(system: System) -> int:
    """Count the messages that the operator accepted for a person who had the campaign's message already."""
    lines = [msgspec.json.decode(line) for line in system.simulator_log.read_bytes().split(b"\n")[:-1]]
    taken = Counter(
        (line["to"], line["short_code"])
        for line in lines
        if line["kind"] == "submit"
        and line["category"] == MARKETING
        and not line["replay"]
        and line["status"] == "accepted"
    )
    return sum(many - 1 for many in taken.values())


def main() -> int:
    asked = argparse.ArgumentParser(prog="python -m chaos.drill", description=__doc__)
    asked.add_argument("--seed", type=int, default=None, help="seed of the load (default: a new seed)")
    asked.add_argument("--turns", type=int, default=1, help="how often each database is restored (1)")
    asked.add_argument("--only", nargs="*", default=(), choices=(*BACK_S, "Kafka"), help="these steps only")
    told = asked.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if told.seed is None else told.seed
    say = partial(print, flush=True)
    drill = uvloop.run(run(FOLDER, seed=seed, only=told.only, turns=told.turns, say=say))
    print(f"\n{drill.text()}\n\n{FOLDER / 'report.txt'}, {FOLDER / 'report.json'}")
    return 1 if drill.report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
