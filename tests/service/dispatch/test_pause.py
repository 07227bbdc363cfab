"""A pause reaches the gate past whatever is queued: told by the order of what happened, and by no clock of ours."""

from collections import Counter
from datetime import timedelta

from tests.service.dispatch.test_dispatch import control_is, dispatch, known
from tests.support.builders import opted_in, requested
from tests.support.eventually import eventually
from tests.support.operators.http import operator
from tests.support.running import Surroundings

PEOPLE, EACH = 20, 30
PERMIT = timedelta(seconds=1)  # what a decision that was being made may last


async def test_nothing_of_a_long_queue_is_let_go_once_its_pause_has_arrived(surroundings: Surroundings) -> None:
    """More is requested than can be in hand; the operator keeps the first waiting; then comes the pause."""
    async with operator() as op, dispatch(surroundings, op, gateway_batch=5, gateway_submits=1, intake_batch=20) as d:
        op.open.clear()
        await d.publish_states(*(opted_in(n) for n in range(PEOPLE)))
        await eventually(lambda: known(surroundings, PEOPLE))
        queue = [requested(n) for n in range(PEOPLE) for _ in range(EACH)]
        await d.request(*queue)
        await op.received.wait()
        await d.control("paused", 2)
        await eventually(lambda: control_is(surroundings, "paused"))
        async with surroundings.sql("dispatch") as sql:
            arrived = await sql.fetchval("SELECT now()")
            begun = len(op.references)
            assert begun < len(queue), "there is a queue"
            op.open.set()

            async def decided() -> bool:
                counts = Counter(dict(await sql.fetch("SELECT status, count(*) FROM message GROUP BY status")))
                return counts["accepted"] + counts["deferred"] == len(queue)

            await eventually(decided)
            let_go = await sql.fetch("SELECT decided_at FROM message WHERE status = 'accepted'")
            waiting = await sql.fetch("SELECT DISTINCT reasons FROM message WHERE status = 'deferred'")
        assert all(row["decided_at"] <= arrived + PERMIT for row in let_go), "on what was read before the pause came"
        assert len(let_go) < len(queue)
        assert [row["reasons"] for row in waiting] == [["campaign_paused"]]
        await d.control("running", 3)
        await eventually(lambda: _all_of(op.references, len(queue)))
        assert Counter(op.references) == Counter(r.message_id for r in queue), "each once"


async def _all_of(references: list[str], many: int) -> bool:
    return len(references) >= many
