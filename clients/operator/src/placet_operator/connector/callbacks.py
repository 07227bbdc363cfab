"""Checks of callbacks: DLRs and MOs come, come again until they are safe, and say what happened."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from placet_operator.checking import Broken, Check, NotSeen, until
from placet_operator.connector.placet import Placet
from placet_operator.connector.receiver import FINAL, Call, Plan
from placet_operator.texts import EDGES, LONG, NO_STOPS, STOPS

REFUSALS: Sequence[Plan] = (503, "cut", 429)
MO_REFUSALS: Sequence[Plan] = (503, 302, "cut", 404)
HELD_FOR_S = 10.0
CLOCK = timedelta(minutes=2)


async def receipts(placet: Placet) -> str:
    messages = [placet.message(f"Suivi {n}") for n in range(5)]
    results = await placet.accepted(*messages)
    for result in results:
        names = (result.reference, result.id)

        def ends(names: tuple[str, str] = names) -> list[Call]:
            return [each for each in placet.receiver.receipts(names) if each.text("status") in FINAL]

        await placet.receiver.until(ends, "no DLR says what became of an accepted message")
    return f"a final DLR of each of {len(results)} messages"


async def reference(placet: Placet) -> str:
    message = placet.message("Référence")
    [result] = await placet.accepted(message)
    names = (result.reference, result.id)
    for call in await placet.receiver.until(lambda: placet.receiver.receipts(names), "no DLR came"):
        if call.text("reference") != result.reference:
            raise Broken("a DLR does not name our reference")
        if call.text("id") != result.id:
            raise Broken("a DLR has another id than the answer to the submit")
    return "our reference, and the id of the answer"


async def receipt_again(placet: Placet) -> str:
    message = placet.message("Encore")
    placet.receiver.plan(message["reference"], *REFUSALS)
    [result] = await placet.accepted(message)
    return await _comes_again(placet, lambda: placet.receiver.receipts((result.reference, result.id)), "DLR")


async def text_again(placet: Placet) -> str:
    number = next(placet.numbers)
    placet.receiver.plan(number, *MO_REFUSALS)
    await placet.texts(number, "STOP")
    return await _comes_again(placet, lambda: placet.receiver.texts(number), "MO")


async def _comes_again(placet: Placet, came: Callable[[], list[Call]], what: str) -> str:
    """Wait until each event that was refused is safe, by its webhook-id. Raises Broken."""
    await placet.receiver.until(lambda: [each for each in came() if not each.safe], f"no {what} came")

    def safe() -> list[Call]:
        calls = came()
        left = {each.webhook_id for each in calls} - {each.webhook_id for each in calls if each.safe}
        return [] if left else calls

    calls = await placet.receiver.until(safe, f"a {what} that was refused did not come again with the same webhook-id")
    return f"{sum(not each.safe for each in calls)} calls refused or cut off, each came again"


async def slow_answer(placet: Placet) -> str:
    answer, slow, other = asyncio.Event(), next(placet.numbers), next(placet.numbers)
    placet.receiver.plan(slow, answer)

    async def came() -> bool | None:
        return bool(placet.receiver.texts(other)) or None

    try:
        await placet.texts(slow, "Bonjour")
        await placet.texts(other, "STOP")
        held_for_s = min(HELD_FOR_S, placet.within_s)
        await until(came, held_for_s, f"a STOP waited {held_for_s:.0f} s behind a callback without an answer yet")
    finally:
        answer.set()
    await placet.receiver.until(lambda: placet.receiver.texts(slow), "the callback that was answered late was lost")
    return "a STOP came while another callback waited for its answer"


async def texted(placet: Placet) -> str:
    return await _arrive(placet, EDGES, "a person's text")


async def long_texted(placet: Placet) -> str:
    return await _arrive(placet, LONG, "a person's long text")


async def stops(placet: Placet) -> str:
    return await _arrive(placet, {text: text for text in (*STOPS, *NO_STOPS)}, "a person's text")


async def _arrive(placet: Placet, texts: Mapping[str, str], what: str) -> str:
    """Let a phone text each, and compare the MOs. Raises Broken."""
    numbers = {name: next(placet.numbers) for name in texts}
    for name, number in numbers.items():
        await placet.texts(number, texts[name])
    for name, number in numbers.items():

        def came(number: str = number) -> list[Call]:
            return placet.receiver.texts(number)

        [call, *more] = await placet.receiver.until(came, f"{what} did not come: {name!r}")
        if call.text("text") != texts[name]:
            raise Broken(f"{what} came otherwise than texted: {name!r}")
        if call.text("to") not in (placet.code, ""):
            raise Broken(f"{what} came for another code")
        if {each.text("id") for each in more} - {call.text("id")}:
            raise Broken(f"{what} came as several MOs: {name!r}")
    return f"{len(texts)} texts, each as texted"


async def clock(placet: Placet) -> str:
    number, began = next(placet.numbers), datetime.now(UTC)
    await placet.texts(number, "Quelle heure ?")
    await placet.receiver.until(lambda: placet.receiver.texts(number), "no MO came")
    said = 0
    for call in placet.receiver.calls:
        name = "sent_at" if call.kind == "messages" else "at"
        if not (value := call.text(name)):
            continue
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            raise Broken(f"`{name}` is no time of ISO 8601") from None
        if at.tzinfo is None:
            raise Broken(f"`{name}` has no offset from UTC, and counts as no time")
        if not began - 10 * CLOCK < at < call.at + CLOCK:
            away_s = (at - call.at).total_seconds()
            raise Broken(f"`{name}` is {away_s:+.0f} s from when the callback came: is the offset right?")
        said += 1
    return f"{said} times, all with an offset and of this run"


async def signature(placet: Placet) -> str:
    calls = _all(placet)
    if wrong := [each for each in calls if each.not_genuine]:
        raise Broken(f"{len(wrong)} of {len(calls)} callbacks are not genuine: {wrong[0].not_genuine}")
    return f"{len(calls)} callbacks, all genuine"


async def form(placet: Placet) -> str:
    calls = _all(placet)
    if wrong := [each for each in calls if each.wrong]:
        raise Broken(f"{len(wrong)} of {len(calls)} callbacks are not of the format: {wrong[0].wrong}")
    return f"{len(calls)} callbacks, all of the format"


async def ids(placet: Placet) -> str:
    calls = _all(placet)
    said: dict[str, bytes] = {}
    texts: dict[str, str] = {}
    for call in calls:
        if said.setdefault(call.webhook_id, call.body) != call.body:
            raise Broken("one webhook-id has two bodies: Placet refuses the second as a replay")
        if call.kind == "messages" and texts.setdefault(call.text("id"), call.webhook_id) != call.webhook_id:
            raise Broken("one MO comes as two events")
    return f"{len(said)} events in {len(calls)} calls"


def _all(placet: Placet) -> list[Call]:
    if not placet.receiver.calls:
        raise NotSeen("no callback came: is the connector's URL of callbacks that of this kit (--listen)?")
    return placet.receiver.calls


CHECKS = (
    Check("DLRs", "Without a DLR a campaign never ends.", "Send a DLR for each final state.", receipts),
    Check(
        "reference",
        "Where an answer was lost, Placet knows a message by its own reference alone.",
        "Name `reference` as submitted, and the `id` of your answer.",
        reference,
    ),
    Check(
        "DLRs again",
        "Placet may be down for as long as an outage lasts.",
        "Keep a callback until a 2xx, and repeat it with its webhook-id and body: for 24 h, each minute at first.",
        receipt_again,
    ),
    Check(
        "MOs again",
        "A STOP that is sent once is lost in each restart of Placet.",
        "Only a 2xx ends the repetitions: neither a redirect, nor a 404, nor a connection that ended.",
        text_again,
    ),
    Check(
        "slow answer",
        "A STOP must not wait behind a callback that takes long.",
        "Send several callbacks at once.",
        slow_answer,
    ),
    Check(
        "STOPs",
        "Placet decides what a STOP changes; a connector that keeps STOPs to itself breaks the promise.",
        "Forward each text as written, whatever you do with the text yourself.",
        stops,
    ),
    Check(
        "MO texts",
        "A STOP in an unreadable text is no STOP.",
        "Decode GSM 7-bit with its extension, and UCS-2 as UTF-16.",
        texted,
    ),
    Check(
        "long MOs",
        "A STOP may stand in any part.",
        "Keep parts until all are there, and put them in the order of their numbers.",
        long_texted,
    ),
    Check(
        "clock",
        "A START counts by its time: a clock that is ahead may open what a later STOP closed.",
        "Write UTC, with its offset.",
        clock,
        turn=3,
    ),
    Check(
        "signature",
        "Placet answers 401 to what is not genuine, and the callback is lost once you give up.",
        "Sign id.timestamp.body, the raw bytes, with the decoded secret, anew at each attempt.",
        signature,
        turn=3,
    ),
    Check("format", "A field of another kind is refused (422).", "Compare with the format.", form, turn=3),
    Check(
        "ids",
        "Placet tells a repetition by its webhook-id and the id of the MO or DLR.",
        "Give each event an id when the event is made, not when the event is sent.",
        ids,
        turn=3,
    ),
)
