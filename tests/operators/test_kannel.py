"""Placet behind a real gateway that nobody here wrote: Debian's Kannel, with its fakesmsc as the SMSC.

PLACET_OPERATORS_MESSAGES   messages of a run; 80 unless set
PLACET_OPERATORS_RUNS       runs in which nothing is killed; 1 unless set
"""

import asyncio
import logging
import os
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from common.sms.sms_length import GSM7_PART, GSM7_SINGLE, UCS2_PART, UCS2_SINGLE, length
from stack.calling import Api
from stack.environment import Operators
from stack.processes import DidNotStart, Supervisor
from stack.running import PROJECTION, running_stack
from tests.support.eventually import eventually, is_so
from tests.support.infrastructure import KAFKA
from tests.support.operators import kannel as operator
from tests.support.operators.behind import Behind, Sender
from tests.support.operators.kannel import BEARERBOX, BEGINNING, SMSBOX, SMSC, Kannel, Part, Place, block, raw_of

log = logging.getLogger(__name__)

MESSAGES = int(os.environ.get("PLACET_OPERATORS_MESSAGES", "80"))
RUNS = int(os.environ.get("PLACET_OPERATORS_RUNS", "1"))
PARTS = range(1, 9)
WITHIN_S = 120.0 + MESSAGES / 10
BEGINS, WIDE = "Maison Lune :", "\U0001f600"
GSM_WORDS = (" -20 %", " 10 €", " [à midi]", " ~ ^ |", " déjà")
STOPS = ("STOP", "توقف", "Arrêtez", "stop svp", "STOP ÇA SUFFIT")

pytestmark = pytest.mark.timeout(300 + int(WITHIN_S) * RUNS * 4)


def text_of(parts: int, code: str, words: Sequence[str] = GSM_WORDS) -> str:
    """Return the longest text of so many parts made of these words, with the STOP mention at its end."""
    text, stop, at = BEGINS, f" STOP au {code}", 0
    while length(text + words[at % len(words)] + stop).segments <= parts:
        text, at = text + words[at % len(words)], at + 1
    return text + stop


def sent_as(text: str) -> bytes:
    return text.encode("utf-16-be" if length(text).encoding == "UCS2" else "utf-8")


@dataclass
class Placet(Behind):
    kannel: Kannel

    async def all_enforced(self, since: Place) -> bool:
        """Return whether each STOP that Kannel has had since then is enforced."""
        return self.arrived(since) <= await self.enforced()

    async def stopped(self, sender: Sender, people: Iterable[str], text: str = "STOP") -> None:
        for each in people:
            await self.kannel.text(each, sender.code, text)

    async def again(self, name: str, *, kill: bool) -> None:
        """Restart a program of ours or of Kannel's; `kill`: by SIGKILL."""
        if name in (BEARERBOX, SMSBOX):
            await self.kannel.again(name, kill=kill)
            return
        if kill:
            self.stack.kill(name)

        async def ready() -> bool:
            try:
                await self.stack.restart(name)
            except DidNotStart as late:  # consent that is old on a busy machine keeps dispatch-svc red for long
                raise AssertionError(str(late)) from late
            return True

        await eventually(ready, within_s=WITHIN_S)

    async def nothing_waits(self) -> bool:
        """Return whether bearerbox's store is empty. The failure tells the sizes in bytes of what it holds."""
        sizes = []
        for path in self.kannel.stored():
            with suppress(FileNotFoundError):  # bearerbox lets go of it meanwhile
                sizes.append(path.stat().st_size)
        assert not sizes, sizes
        return True

    async def is_submitted(self, sender: Sender, since: Place) -> bool:
        return bool(self.kannel.submitted(sender.code, since))

    async def replay(self, folder: Path, since: Place) -> None:
        """Run the program of the page over the lines of Kannel's log from `since` on."""
        (folder / "replay.py").write_text(block("python"), encoding="utf-8")
        (folder / "lines.log").write_bytes(self.kannel.access_log.read_bytes()[since.access :])
        ran = await asyncio.create_subprocess_exec(
            sys.executable, "replay.py", "lines.log", self.kannel.messages_url, cwd=folder
        )
        assert await ran.wait() == 0

    def repeated(self, senders: Iterable[Sender], since: Place) -> int:
        return sum(len(texts) - 1 for each in senders for texts in self.texts(each, since).values())

    def arrived(self, since: Place) -> set[str]:
        """Return Kannel's ids of the MOs that it has."""
        return {line.id for line in self.kannel.logged("Receive SMS", since)}

    def reached(self, sender: Sender, since: Place) -> set[str]:
        """Return the people whose message bearerbox has sent."""
        return {line.to for line in self.kannel.logged("Sent SMS", since) if sender.code in line.text}

    async def has_sent(self, sender: Sender, since: Place, accepted: int) -> bool:
        """Return whether bearerbox has sent as many as were accepted: what a killed one kept goes once it is back."""
        reached = self.reached(sender, since)
        assert len(reached) >= accepted, f"an accepted message is never lost: {len(reached)} of {accepted} reached"
        return True

    async def received(
        self, sender: Sender, since: Place, people: Collection[str] | None = None
    ) -> dict[str, list[list[Part]]]:
        """Return the sender's texts by person, each as its parts, once all of `people` (or the sender's) have one.

        fakesmsc reads once a second. The code is in the last part of each text.
        """
        people = sender.people if people is None else people

        async def look() -> dict[str, list[list[Part]]]:
            texts = self.texts(sender, since)
            assert len(texts) >= len(people), f"{len(texts)} of {len(people)}"
            return texts

        return await eventually(look, within_s=WITHIN_S)

    def texts(self, sender: Sender, since: Place) -> dict[str, list[list[Part]]]:
        texts: dict[str, list[list[Part]]] = defaultdict(list)
        unfinished: dict[tuple[str, int], list[Part]] = {}
        for part in self.kannel.received(since):
            whole = unfinished.setdefault((part.to, part.reference), [])
            whole.append(part)
            if len(whole) == part.of:
                del unfinished[part.to, part.reference]
                raw = raw_of(whole)
                if sender.code.encode() in raw or sender.code.encode("utf-16-be") in raw:
                    texts[part.to].append(whole)
        return texts


@pytest.fixture(scope="module")
async def placet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Placet]:
    folder = tmp_path_factory.mktemp("kannel")
    async with Supervisor(folder / "logs") as supervisor:
        kannel = Kannel(folder / "kannel", supervisor)
        operators = Operators(
            gateways=[
                {
                    "provider": "kannel",
                    "url": kannel.url,
                    "user": operator.USER,
                    "secret": operator.PASSWORD,
                    "segments": 10,
                    "callback_url": f"{{inbound}}{operator.CALLBACKS}/receipts",
                }
            ],
            accounts=[{"provider": "kannel", "account": "main", "path_secrets": [operator.PATH_SECRET]}],
        )
        async with running_stack(folder / "stack", kafka=KAFKA, durable=False, operators=operators) as stack:
            kannel.inbound = stack.urls["inbound"]
            await kannel.start()
            headers = {"Authorization": f"Bearer {stack.token}"}
            async with aiohttp.ClientSession(headers=headers) as session:
                yield Placet(stack, Api(session, stack.urls), WITHIN_S, kannel)


async def test_texts_arrive_as_they_were_written(placet: Placet) -> None:
    """Texts of one to eight parts, full to the last place, in both alphabets, and one character beyond."""
    words = {
        "basic": ("abcdefghi ",),
        "extension": ("€", "[", "]", "{", "}", "~", "^", "|", "\\"),
        "letters": ("éèùìòÇØøÅåΔ_ΦΓΛΩ",),
        "a line end": ("ligne\n",),
        "ucs2": ("ê", "œ", "’"),
        "emoji": (WIDE,),
        "between": ("a", WIDE),
    }
    sender = await placet.sender(range(9000, 9000 + len(words) * len(PARTS)), lambda code: "")
    texts = {
        person: text_of(parts, sender.code, kind)
        for person, (parts, kind) in zip(
            sender.people, ((parts, kind) for kind in words.values() for parts in PARTS), strict=True
        )
    }
    messages = [
        {"sender_id": sender.sender_id, "to": to, "category": "marketing", "purpose": "promotions", "text": text}
        for to, text in texts.items()
    ]
    answer = await placet.api.call("POST", "dispatch", "/v1/messages", {"messages": messages}, key="edges")
    assert len(answer["results"]) == len(messages), answer

    async def delivered() -> bool:
        return await placet.counted([sender]) == {("accepted", "delivered"): len(texts)}

    await eventually(delivered, within_s=WITHIN_S)
    received = await placet.received(sender, BEGINNING)
    for person, text in texts.items():
        [parts] = received[person]
        assert raw_of(parts) == sent_as(text), text
        measured = length(text)
        assert len(parts) <= measured.segments
        wide = measured.encoding == "UCS2"
        most = (UCS2_SINGLE if wide else GSM7_SINGLE) if len(parts) == 1 else (UCS2_PART if wide else GSM7_PART)
        for part in parts:
            assert length(part.raw.decode("utf-16-be" if wide else "utf-8", "replace")).units <= most


@pytest.mark.parametrize("run", range(RUNS))
async def test_nothing_is_lost_where_nothing_is_killed(placet: Placet, run: int) -> None:
    each = max(1, MESSAGES // len(PARTS))
    senders = [
        await placet.sender(
            range(parts * 1000, parts * 1000 + each),
            partial(text_of, parts, words=(f" {WIDE}",) if parts % 2 == 0 else GSM_WORDS),
        )
        for parts in PARTS
    ]
    begun = placet.kannel.here()
    campaigns = [await placet.campaign(sender) for sender in senders]
    for campaign in campaigns:
        s = await placet.finished(campaign)
        assert (s["accepted"], s["unknown"], s["rejected"]) == (each, 0, 0), s

    async def delivered() -> bool:
        return await placet.counted(senders) == {("accepted", "delivered"): each * len(senders)}

    await eventually(delivered, within_s=WITHIN_S)
    for sender in senders:
        received = await placet.received(sender, begun)
        assert set(received) == set(sender.people)
        assert {len(texts) for texts in received.values()} == {1}, "nothing twice"
        assert {raw_of(texts[0]) for texts in received.values()} == {sent_as(sender.text)}
    sender = senders[0]
    begun = placet.kannel.here()
    gone = sender.people[::4]
    for person, text in zip(gone, STOPS * len(gone), strict=False):
        await placet.stopped(sender, [person], text)

    async def enforced() -> bool:
        arrived = placet.arrived(begun)
        return len(arrived) == len(gone) and arrived <= await placet.enforced()

    await eventually(enforced, within_s=WITHIN_S)
    begun = placet.kannel.here()
    s = await placet.finished(await placet.campaign(sender))
    assert (s["accepted"], s["denied"]) == (each - len(gone), len(gone)), s
    left = set(sender.people) - set(gone)
    assert set(await placet.received(sender, begun, left)) == left


SERVICES = ("inbound", "consent", "campaign", "dispatch", PROJECTION)
FAULTS = [(who, kill) for kill in (True, False) for who in (BEARERBOX, SMSBOX, *SERVICES)]
FEW = [(BEARERBOX, True), ("inbound", True), ("dispatch", True)]  # smsbox ends with bearerbox


async def test_kills_lose_no_stop_and_send_nothing_twice(placet: Placet, tmp_path: Path) -> None:
    """Each program is killed, and each restarted, in the middle of a campaign and of STOPs to the one before.

    Counted is what smsbox took: of itself bearerbox writes to the SMSC again what it was writing when it was killed.
    """
    kannel, faults = placet.kannel, FAULTS if MESSAGES >= 1000 else FEW
    each = MESSAGES // len(faults)
    senders = [
        await placet.sender(range(at * each, (at + 1) * each), partial(text_of, at % 8 + 1))
        for at in range(len(faults))
    ]
    others = await placet.sender(range(9600, 9640), partial(text_of, 1))  # STOPs to them come before any campaign
    begun = kannel.here()
    for (who, kill), sender, earlier in zip(faults, senders, [others, *senders], strict=False):
        since = kannel.here()
        campaign = await placet.campaign(sender)
        await eventually(partial(placet.is_submitted, sender, since), within_s=WITHIN_S)
        await asyncio.gather(placet.again(who, kill=kill), placet.stopped(earlier, earlier.people[::5]))
        await placet.finished(campaign)
        if who not in (BEARERBOX, SMSBOX):  # Kannel keeps them, and nobody replays
            await eventually(partial(placet.all_enforced, since), within_s=WITHIN_S)
    await placet.replay(tmp_path, begun)
    await eventually(partial(placet.all_enforced, begun), within_s=WITHIN_S)

    submitted = Counter(
        (line.number, sender.code) for sender in senders for line in kannel.submitted(sender.code, begun)
    )
    assert set(submitted.values()) == {1}, "nothing twice"
    for fault, sender in zip(faults, senders, strict=True):
        counts = await placet.counted([sender])
        accepted, unknown = (
            sum(n for (s, _), n in counts.items() if s == status) for status in ("accepted", "unknown")
        )
        assert accepted + unknown == each, counts
        await eventually(partial(placet.has_sent, sender, begun, accepted), within_s=WITHIN_S)
        reached = placet.reached(sender, begun)
        log.info("%s: %s, %d reached", fault, dict(counts), len(reached))
        assert len(reached) <= accepted + unknown
        # bearerbox forgets whose receipt it is before the receipt is in its store
        assert fault[0] == BEARERBOX or counts["accepted", "delivered"] == accepted, "no receipt is lost"
    log.info("written to the SMSC again by bearerbox itself: %d", placet.repeated(senders, begun))

    stopped = {(line.sender, line.to) for line in kannel.logged("Receive SMS", begun)}
    since = kannel.here()
    for campaign in [await placet.campaign(sender) for sender in (others, *senders)]:
        await placet.finished(campaign)
    for sender in (others, *senders):
        told = [line.number for line in kannel.submitted(sender.code, since)]
        assert sorted(told) == sorted(n for n in sender.people if (n, sender.code) not in stopped)
    await eventually(placet.nothing_waits, within_s=WITHIN_S)


async def test_what_a_kill_left_begun_costs_no_receipt_and_stays_in_no_spool(placet: Placet) -> None:
    """A kill between the making of a file and its writing leaves it empty: of a message or of an awaited receipt."""
    kannel = placet.kannel
    sender = await placet.sender(range(9540, 9544), partial(text_of, 1))
    await eventually(placet.nothing_waits, within_s=WITHIN_S)
    kannel.supervisor.kill(SMSC)
    s = await placet.finished(await placet.campaign(sender))
    assert s["accepted"] == len(sender.people), s
    waiting = kannel.stored()
    assert len(waiting) == len(sender.people), "bearerbox has them, and awaits no receipt yet"

    for name in (BEARERBOX, SMSBOX):
        kannel.supervisor.kill(name)
    begun = kannel.left_begun(waiting, sender.people)
    await kannel.supervisor.restart(BEARERBOX)
    assert kannel.unreadable() == [begun], "bearerbox tells of it, and goes on"
    assert begun in kannel.stored()

    await placet.again(BEARERBOX, kill=True)

    async def delivered() -> bool:
        return await placet.counted([sender]) == {("accepted", "delivered"): len(sender.people)}

    await eventually(delivered, within_s=WITHIN_S)
    await eventually(placet.nothing_waits, within_s=WITHIN_S)


async def test_a_crash_of_smsbox_loses_what_waits_there_and_a_replay_of_the_log_brings_it(
    placet: Placet, tmp_path: Path
) -> None:
    sender = await placet.sender(range(9500, 9504), partial(text_of, 1))
    await placet.finished(await placet.campaign(sender))
    *lost, kept = sender.people

    await eventually(placet.nothing_waits, within_s=WITHIN_S)
    begun = placet.kannel.here()
    placet.stack.kill("inbound")
    await placet.stopped(sender, lost)

    async def let_go() -> bool:
        return len(placet.arrived(begun)) == len(lost) and await placet.nothing_waits()

    await eventually(let_go, within_s=WITHIN_S)
    placet.kannel.supervisor.kill(SMSBOX)
    await placet.kannel.supervisor.restart(SMSBOX)
    await placet.stack.restart("inbound")
    waiting, since = placet.arrived(begun), placet.kannel.here()
    await placet.stopped(sender, [kept])

    await eventually(lambda: is_so(bool(placet.arrived(since))), within_s=WITHIN_S)
    await eventually(partial(placet.all_enforced, since), within_s=WITHIN_S)
    assert waiting & await placet.enforced() == set(), "smsbox keeps them after all: mend the page"
    await placet.replay(tmp_path, begun)
    await eventually(partial(placet.all_enforced, begun), within_s=WITHIN_S)
    s = await placet.finished(await placet.campaign(sender))
    assert (s["accepted"], s["denied"]) == (0, 4), s
