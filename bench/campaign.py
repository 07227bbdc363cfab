"""campaign-svc, one process: the pre-flight of a campaign to everybody, `subjects` contacts of whom four in five have
consented, over HTTP.

The limit is one statement and a cursor that reads the same rows and does nothing with them: no number is opened, no
attribute decoded, no text written, nothing counted. What is asked is an absolute: a million people within a minute.

The numbers are counted up where mobiles are (bench.consent says why); nothing leaves this machine.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import httpx
import msgspec

from bench.ground import Ground
from bench.rounds import Sample, Side
from campaign.reach import Standing
from common.contracts.consent import Consent
from common.keyring import FieldKeys, SubjectKeys
from common.settings import KeyRingSettings

FIRST = 20_000_000  # the first number, of eight digits after +336
SENDER, PURPOSE = "bench", "promotions"
CHUNK = 20_000  # contacts written at a time
PAGE = 2_000  # rows read at a time, by both sides
SERVICE_GC = "50,000 objects, frozen"
BENCH_GC = "Python's"
WITHIN_S = 600.0
TEXT = (
    "{if loyalty = or}-30 %{else}-20 %{end} chez Banc {city|et en ligne} ce samedi, {first_name|cher client}."
    " Sur présentation de ce SMS. {stop}"
)
NAMES = ("Zoé", "Loïc", "Ana", "Benoît", "Inès")  # two of the five cost a second SMS, or nothing, as the text goes
ROWS = (
    "SELECT c.subject_id, c.number, c.attributes::text, k.told::text FROM contact AS c"
    " LEFT JOIN standing AS k ON k.subject_id = c.subject_id WHERE c.sender_id = $1 ORDER BY c.subject_id"
)


@dataclass(frozen=True)
class Bench:
    database: asyncpg.Connection
    client: httpx.AsyncClient
    people: int

    async def ours(self) -> Sample:
        body = {"sender_id": SENDER, "name": "Banc", "purpose": PURPOSE, "text": TEXT, "audience": {"all": True}}
        written = (await self.client.post("/v1/campaigns", json=body)).raise_for_status().json()
        started = time.perf_counter()
        answer = await self.client.post(f"/v1/campaigns/{written['campaign_id']}/pre-flight")
        took = time.perf_counter() - started
        found = answer.raise_for_status().json()
        assert found["audience"] == self.people, found
        assert found["would_get"] == sum(found["lengths"]["segments"].values()) == self.people - self.people // 5, found
        return Sample(self.people, took)

    async def limit(self) -> Sample:
        started, read = time.perf_counter(), 0
        async with self.database.transaction():
            cursor = await self.database.cursor(ROWS, SENDER)
            while page := await cursor.fetch(PAGE):
                read += len(page)
        assert read == self.people
        return Sample(read, time.perf_counter() - started)


async def run(ground: Ground) -> None:
    database = await asyncpg.connect(await ground.database("campaign"))
    await _fill(ground, database)
    server = await ground.service("campaign", PLACET_PRICES='{"version": "bench", "per_part": {"FR": "0.05"}}')
    headers = {"Authorization": f"Bearer {ground.environment.token()}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=WITHIN_S) as client:
        bench = Bench(database, client, ground.subjects)
        await ground.compare(
            f"Pre-flight of {ground.subjects:,} contacts: who would get it, why not, its lengths and its cost",
            "contacts",
            ours=Side("campaign-svc, one process, over HTTP", bench.ours, SERVICE_GC),
            limit=Side("a cursor over the same rows, and nothing else", bench.limit, BENCH_GC),
        )
    await database.close()


async def _fill(ground: Ground, database: asyncpg.Connection) -> None:
    await database.execute(
        "INSERT INTO sender (sender_id, version, brand, oadc, country, stop_code, purposes)"
        " VALUES ($1, 1, 'Banc', 'BANC', 'FR', '36111', ARRAY[$2])",
        SENDER,
        PURPOSE,
    )
    now = datetime.now(UTC)
    for start in range(0, ground.subjects, CHUNK):
        rows = list(_people(ground, range(start, min(start + CHUNK, ground.subjects)), now))
        await database.copy_records_to_table(
            "contact",
            records=[(SENDER, subject_id, number, held, now, now) for subject_id, number, held, _ in rows],
            columns=("sender_id", "subject_id", "number", "attributes", "created_at", "updated_at"),
        )
        await database.copy_records_to_table(
            "standing",
            records=[(subject_id, 1, told) for subject_id, _, _, told in rows if told],
            columns=("subject_id", "version", "told"),
        )
    await database.execute("ANALYZE contact, standing")


def _people(ground: Ground, numbers: range, now: datetime) -> Iterator[tuple[str, str, str, str | None]]:
    """subject_id, sealed number, attributes and what is known of their consent."""
    subjects = SubjectKeys(KeyRingSettings.model_validate_json(ground.environment.subject_keys))
    fields = FieldKeys(KeyRingSettings.model_validate_json(ground.environment.field_keys))
    for n in numbers:
        number = f"+336{FIRST + n:08d}"
        subject_id = subjects.subject_id(number)
        held = {"first_name": NAMES[n % 5], "city": "Nîmes" if n % 7 == 0 else "Lyon", "loyalty": "or" if n % 3 else ""}
        told = None
        if n % 5 != 4:
            yes = Consent(
                sender_id=SENDER,
                purpose=PURPOSE,
                state="opted_in",
                basis="opt_in",
                occurred_at=now - timedelta(days=9),
                evidence_id=str(uuid4()),
                expires_at=now + timedelta(days=900),
            )
            told = msgspec.json.encode(Standing(consents=(yes,))).decode()
        sealed = fields.seal(number, f"number:{subject_id}")
        yield subject_id, sealed, msgspec.json.encode(held).decode(), told
