"""A STOP that the log of consents has lost: marketing of its partition is held until consent-svc has published it again
and a person says so; opt-outs go on being applied meanwhile."""

import pytest

from common.contracts import STATES
from common.kafka.broker import partition_of
from common.kafka.reading import broken_logs, log_watch
from common.kafka.subscription import Stopped
from tests.service.dispatch.test_dispatch import Dispatch, _ready, dispatch, known
from tests.service.dispatch.test_rebuilding import rebuild
from tests.support.builders import opted_in, opted_out, requested, subject
from tests.support.eventually import eventually
from tests.support.operators.http import operator
from tests.support.publish import heartbeat, lose, publish
from tests.support.running import Surroundings

pytestmark = pytest.mark.any_broker
STALE_S = 8.0  # a busy machine brings a watermark late


async def why_not_ready(d: Dispatch) -> str:
    return "\n".join((await d.client.get("/readyz")).json()["why"])


async def test_over_a_lost_stop_marketing_is_held_until_it_was_published_again_and_a_person_says_so(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log_watch, "WATCH_INTERVAL_S", 0.1)
    database_url = await surroundings.database("dispatch")
    one, two, three = [n for n in range(1, 60) if partition_of(subject(n), 3) == partition_of(subject(1), 3)][:3]
    async with (
        operator() as op,
        dispatch(surroundings, op, watermarks=False, max_staleness_s=STALE_S) as d,
        heartbeat(surroundings, STATES),
    ):
        await d.publish_states(*(opted_in(n) for n in (one, two, three)))
        await eventually(lambda: known(surroundings, 3))
        await eventually(lambda: _ready(d.client))

        partition = await lose(surroundings, STATES, subject(1))

        async def held() -> bool:
            why = await why_not_ready(d)
            assert f"{STATES.name}/{partition} is broken, its watermarks are not believed: 1 or more records" in why
            assert "marketing is held" in why
            return True

        await eventually(held)
        wanted = [requested(n) for n in (one, two, three)]
        await d.request(*wanted)
        await d.publish_states(opted_out(three, version=2, reference="simulator/main/mo-3"))
        await d.publish_states(opted_out(1, version=2, reference="simulator/main/mo-1"))  # again

        async def enforced() -> bool:
            assert {e["reference"] for e in await d.enforcements() if e["enforced_at"]} == {
                "simulator/main/mo-1",
                "simulator/main/mo-3",
            }
            return True

        await eventually(enforced)
        await eventually(held)
        assert op.messages == []
        capsys.readouterr()
        assert await broken_logs.command("dispatch", database_url, ["list"]) == 0
        place = capsys.readouterr().out.split("\t")[0]
        assert place.startswith(f"dispatch.consents:{STATES.name}/{partition}@")
        assert await broken_logs.command("dispatch", database_url, ["clear", place]) == 0
        await eventually(d.becomes(wanted[1].message_id, "accepted"))
        for other in (wanted[0], wanted[2]):
            assert "opted_out" in (await eventually(d.becomes(other.message_id, "denied")))["reasons"]
        await eventually(lambda: _ready(d.client))
        assert op.references == [wanted[1].message_id]


async def test_no_table_is_made_from_a_log_that_has_lost_records_unless_a_person_says_so(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with operator() as op, dispatch(surroundings, op) as d:
        await d.publish_states(opted_in(1))
        partition = await lose(surroundings, STATES, subject(1))
        await publish(surroundings, STATES, [opted_out(1, version=3)])
        await eventually(lambda: known(surroundings, 1))
        with pytest.raises(
            Stopped, match=f"partition {partition} has lost records .*republish --partition {partition}"
        ):
            await rebuild(surroundings)
