"""Replace the field, link, signing and outer keys of a stack while the demo runs, by the steps of docs/runbook.md."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from rich.progress import Progress

from stack.calling import DemoFailed, together
from stack.demo.house import House
from stack.environment import SERVICES, outer_ring, ring_of_current, ring_under, ring_with
from stack.running import Stack

FIELD, LINK, SIGNING, OUTER = "f2", "l2", "p2", "o2"  # the new keys
WITHIN_S = 300.0  # a run over the columns of a service, beside a campaign
SUBMIT = b'{"kind":"submit"'  # a line of the simulator's log
KEYS, KEY_SET = "/.well-known/jwks.json", "jwks.json"


@dataclass(slots=True)
class Rotation:
    """A rotation of a stack's keys. `at`: by step, the messages that the operator had when the step began."""

    stack: Stack
    progress: Progress
    at: dict[str, int] = field(default_factory=dict)

    async def prepare(self) -> None:
        """Give the services new keys beside the current ones."""
        self._step("new keys in the rings")
        now = self.stack.environment
        now = replace(
            now,
            link_keys=ring_with(now.link_keys or now.field_keys, LINK),
            field_keys=ring_with(now.field_keys, FIELD),
            signing_keys=ring_with(now.signing_keys, SIGNING),
            subject_keys=outer_ring(now.subject_keys, partial(ring_with, key_id=OUTER)),
        )
        self.stack = await self.stack.restart_with(now)

    async def begin(self, house: House) -> None:
        """Make the new keys current, and encrypt stored fields anew.

        `house`: of a finished campaign, whose proof is kept as the old key signs it.
        """
        await self._proof(house, "before")
        self._step("new keys are current")
        now = self.stack.environment
        assert now.link_keys is not None
        now = replace(
            now,
            link_keys=ring_under(now.link_keys, LINK),
            field_keys=ring_under(now.field_keys, FIELD),
            signing_keys=ring_under(now.signing_keys, SIGNING),
        )
        self.stack = await self.stack.restart_with(now)
        self._step("fields encrypted anew")
        await self._reseal()
        self._step("people under the new outer key")
        ring = outer_ring(now.subject_keys, partial(ring_under, key_id=OUTER))
        self.stack = await self.stack.move_people(replace(now, subject_keys=ring))
        await self.stack.run("consent", "republish", "--moved", within_s=WITHIN_S)
        self._step("rotation done")

    async def end(self, house: House) -> None:
        """Take the old keys out, and check proofs of before and after. Raises DemoFailed, DidNotStart.

        What came off Kafka since is encrypted anew first. A field of an old key that is left ends the run: the command
        exits with 1.
        """
        await self._reseal()
        await together(*(self.stack.count_moved(name) for name in SERVICES))
        now, published = self.stack.environment, await house.api.call("GET", "consent", KEYS)
        assert now.link_keys is not None
        self._step("old keys taken out")
        self.stack = await self.stack.restart_with(
            replace(
                now,
                link_keys=ring_of_current(now.link_keys),
                field_keys=ring_of_current(now.field_keys),
                signing_keys=ring_of_current(now.signing_keys),
                subject_keys=outer_ring(now.subject_keys, ring_of_current),
                retired_signing_keys={key["kid"]: key["x"] for key in published["keys"] if key["kid"] != SIGNING},
            )
        )
        key_set = self.stack.folder / KEY_SET
        key_set.write_bytes((await house.api.answer("GET", "consent", KEYS)).content)
        await self._proof(house, "after")
        for when in ("before", "after"):
            proof = str(self._path(when))
            await self.stack.run("consent", "verify-bundle", proof, "--jwks", str(key_set), within_s=WITHIN_S)
        self._step("proofs of both signing keys hold")

    async def _reseal(self) -> None:
        await together(*(self.stack.run(name, "keys", "--reseal", within_s=WITHIN_S) for name in SERVICES))

    async def _proof(self, house: House, when: str) -> None:
        answer = await house.api.answer("GET", "consent", f"/v1/proofs/campaigns/{house.campaigns[0]}")
        if answer.status >= 400:
            raise DemoFailed(f"the proof of a campaign: {answer.status} {answer.content.decode()[:500]}")
        self._path(when).write_bytes(answer.content)

    def _path(self, when: str) -> Path:
        return self.stack.folder / f"proof-{when}.jsonl"

    def _step(self, what: str) -> None:
        log = self.stack.simulator_log
        self.at[what] = log.read_bytes().count(SUBMIT) if log.exists() else 0
        self.progress.console.print(f"Rotation: {what}, at {self.at[what]} messages")
