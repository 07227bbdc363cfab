"""A hostile caller: a valid token of the second organisation, which tries what no caller may do.

Each attempt is refused by name, is answered as for what does not exist, or comes to nothing. A control shows for each
kind of attempt that the honest call is good: else a misspelt attempt would look refused. `brands.py` judges apart, by
the operator's log, that nothing of the attempts left.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from stack.calling import STANDSTILL_S, Answer, Api, DemoFailed, Patience, together
from stack.demo.brands import Attempt

MARK = "MONSTRE"  # in each text of an attempt
ADVERT = "SOLDES MONSTRES -70 % chez Atelier Nord, tout doit partir !"
# reserved by the Bundesnetzagentur for film and television, as 06 39 98 xx xx is in France
ABROAD = "+49 171 3920012"
AT_ONCE, PER_HOUR = 80, 10  # texts to one number, and its limit (limits.json, and by default)
POLL_S = 0.1
HANDED_OFF = ("accepted", "rejected", "unknown")
UNDECIDED = ("pending", "deferred", "sending")


@dataclass(frozen=True, slots=True)
class Target:
    """The first organisation, and people.

    `person` is known to the first organisation alone, `unknown` to nobody. `willing` has consented to the hostile
    caller's brand, `stopped` has stopped the brand. `owner`: the first organisation's own API.
    """

    owner: Api
    sender: Mapping[str, Any]
    campaign_id: str
    message_id: str
    person: str
    unknown: str
    willing: str
    stopped: str


@dataclass(frozen=True, slots=True)
class Call:
    """A request of which the answer must not tell of the first organisation."""

    method: str
    service: str
    path: str
    body: Any = None


@dataclass(slots=True)
class Hostile:
    """Makes the attempts. `single`: the OADC of each honest message, by id."""

    api: Api
    colleague: Api  # approves the templates
    own: Mapping[str, Any]  # the sender of marketing
    target: Target
    single: dict[str, str] = field(default_factory=dict)
    template: str = ""

    @property
    def account(self) -> dict[str, Any]:
        """Return the sender of codes."""
        other = {"sender_id": "atelier-nord-compte", "oadc": "NORDCOMPTE", "stop_code": "38222", "purposes": []}
        return {**self.own, **other, "controller": self.own["sender_id"], "abroad": []}

    async def attempts(self) -> list[Attempt]:
        await self._be_honest()
        found = await together(self._lanes(), self._names(), self._consents(), self._reads())
        return [attempt for each in found for attempt in each]

    async def _be_honest(self) -> None:
        """Make the honest calls that the attempts resemble. Raises DemoFailed unless they are good."""
        await self.api.call("PUT", "consent", f"/v1/senders/{self.own['sender_id']}", self.own)
        await self.api.call("POST", "consent", "/v1/senders", self.account)
        written = {
            "sender_id": self.account["sender_id"],
            "name": "Code",
            "category": "transactional",
            "text": "Atelier Nord : bonjour {name}, votre code est {code}.",
            "fields": [{"name": "name", "max_chars": 30}, {"name": "code", "max_chars": 8}],
        }
        template = await self.api.call("POST", "campaign", "/v1/templates", written, key="hostile template")
        self.template = template["template_id"]
        await self.colleague.call("POST", "campaign", f"/v1/templates/{self.template}/versions/1/approve")
        await self._leaves(self._code(self.target.willing, name="Camille"), self.account["oadc"])
        honest = self._marketing(self.target.willing, "Atelier Nord : le nouveau catalogue est en ligne. STOP au 36111")
        await self._leaves(honest, self.own["oadc"])

    async def _lanes(self) -> list[Attempt]:
        free = {"sender_id": self.account["sender_id"], "to": self.target.stopped, "category": "transactional"}
        over = {"override_reason": "demandé par la direction"}
        return [
            await self._refused("an advert as a transactional free text", _send(free, text=ADVERT), "advertising"),
            await self._refused("the advert with an override", _send(free, text=ADVERT, **over), "scope_missing"),
            await self._refused(
                "the advert as transactional, from the marketing code",
                _send(free, text=ADVERT, sender_id=self.own["sender_id"]),
                "code_of_another_lane",
            ),
            await self._refused(
                "the advert in a value of an approved template",
                Call("POST", "dispatch", "/v1/messages", self._code(self.target.stopped, name="SOLDES MONSTRES -70%")),
                "advertising",
            ),
            await self._flood(self.target.willing),
        ]

    async def _flood(self, number: str) -> Attempt:
        """Send many honest codes to one number at once: only as many as its limit may leave."""
        batch = {"messages": [self._code(number, name="Camille")] * AT_ONCE}
        tried = f"{AT_ONCE} texts to one number"
        answer = await self._answer(Call("POST", "dispatch", "/v1/messages", batch), tried)
        if answer.status >= 400:
            return Attempt(tried, _said(answer), False)
        results = answer.body["results"]
        left = [result["message_id"] for result in results if result["refused"] is None]
        why = {reason["reason"] for result in results if result["refused"] for reason in result["refused"]["reasons"]}
        self.single |= dict.fromkeys(left, self.account["oadc"])
        answered = f"{answer.status}, {len(left)} accepted, {len(results) - len(left)}: {', '.join(sorted(why))}"
        return Attempt(tried, answered, len(left) <= PER_HOUR and why == {"per_number_hour"})

    async def _names(self) -> list[Attempt]:
        theirs = self.target.sender
        words = f"{self.own['brand']} : STOP noté. SOLDES MONSTRES -70 % en boutique."
        return [
            await self._refused("the first organisation's OADC", self._put(oadc=theirs["oadc"]), "name-taken"),
            await self._refused("a look-alike OADC, MAlS0NLUNE", self._put(oadc="MAlS0NLUNE"), "name-taken"),
            await self._refused("the first organisation's brand", self._put(brand=theirs["brand"]), "name-taken"),
            await self._refused(
                "a look-alike brand, with a Cyrillic а",
                self._put(brand=str(theirs["brand"]).replace("a", "\N{CYRILLIC SMALL LETTER A}", 1)),
                "name-taken",
            ),
            await self._refused("a generic OADC, ALERTE", self._put(oadc="ALERTE"), "refused_name"),
            await self._refused("a protected OADC, AMELI", self._put(oadc="AMELI"), "refused_name"),
            await self._refused(
                "the first organisation's sender_id", Call("POST", "consent", "/v1/senders", theirs), "sender-taken"
            ),
            await self._refused("replies.stop with an advert", self._put(replies={"stop": words}), "advertising"),
        ]

    async def _consents(self) -> list[Attempt]:
        everybody = {"sender_id": None, "number": self.target.person, "evidence": {"source": "crm"}}
        await self.api.call("POST", "consent", "/v1/consents", self._consent(ABROAD))
        return [
            await self._asserted(),
            await self._denied("an advert after that", self.target.stopped, "suppressed"),
            await self._denied("an advert to a person of the first organisation", self.target.person, "no_consent"),
            await self._denied(
                "an advert abroad, with a consent", ABROAD, "no_means_to_stop_there", "place_not_allowed"
            ),
            await self._refused(
                "an opt-out for everybody", Call("POST", "consent", "/v1/opt-outs", everybody), "sender_not_granted"
            ),
            await self._refused(
                "an opt-out from the first organisation",
                Call("POST", "consent", "/v1/opt-outs", everybody | {"sender_id": self.target.sender["sender_id"]}),
                "unknown_sender",
            ),
        ]

    async def _reads(self) -> list[Attempt]:
        target, theirs, none = self.target, self.target.sender["sender_id"], "nobodys-sender"
        person, unknown = {"number": target.person}, {"number": target.unknown}
        asked = {"sender_id": self.own["sender_id"], "purpose": "promotions"}
        contact = Call("POST", "campaign", "/v1/contacts/lookup", person | {"sender_id": theirs})
        campaign, message = f"/v1/campaigns/{target.campaign_id}", f"/v1/messages/{target.message_id}"
        no_campaign, no_message = (
            "/v1/campaigns/cmp-000000000000000000000000",
            f"/v1/messages/{_other(target.message_id)}",
        )
        found = [
            await self._alike("a person's consents", Call("POST", "consent", "/v1/subjects/lookup", person), unknown),
            await self._alike(
                "whether a person may be written to",
                Call("POST", "consent", "/v1/consents/check", asked | {"numbers": [target.person]}),
                asked | {"numbers": [target.unknown]},
                of_owner={"sender_id": theirs},
            ),
            await self._alike("a person as a contact", contact, person | {"sender_id": none}),
            await self._alike(
                "the sender", Call("GET", "consent", f"/v1/senders/{theirs}"), path=f"/v1/senders/{none}"
            ),
        ]
        for what in ("", "/statistics", "/recipients"):
            call = Call("GET", "campaign", campaign + what)
            found.append(await self._alike(f"the campaign{what.replace('/', ': ')}", call, path=no_campaign + what))
        found.append(await self._alike("a message", Call("GET", "dispatch", message), path=no_message))
        cancelling = Call("POST", "campaign", f"{campaign}/cancel", {})
        return [
            *found,
            await self._refused("cancelling the campaign", cancelling, "unknown_campaign"),
            await self._refused("everybody's STOPs", Call("GET", "dispatch", "/v1/enforcements"), "scope_missing"),
        ]

    async def _refused(self, tried: str, call: Call, by: str) -> Attempt:
        """Make an attempt that has to be refused for the reason `by`, or by a problem of that type."""
        answer = await self._answer(call, tried)
        return Attempt(tried, _said(answer), answer.status >= 400 and by in _reasons(answer))

    async def _denied(self, tried: str, number: str, *by: str) -> Attempt:
        """Ask for an advert that has to be refused, or denied by the gate, for one of the reasons `by`."""
        body = self._marketing(number, f"{ADVERT} STOP au {self.own['stop_code']}")
        answer = await self._answer(Call("POST", "dispatch", "/v1/messages", body), tried)
        if answer.status >= 400:
            return Attempt(tried, _said(answer), not _reasons(answer).isdisjoint(by))
        told = await self._settled(answer.body["message_id"])
        reasons = ", ".join(told["reasons"])
        answered = f"{answer.status}, then {told['status']}: {reasons}"
        return Attempt(tried, answered, told["status"] == "denied" and not {*told["reasons"]}.isdisjoint(by))

    async def _asserted(self) -> Attempt:
        answer = await self._answer(Call("POST", "consent", "/v1/consents", self._consent(self.target.stopped)), "now")
        told = answer.body if answer.status < 400 else {}
        answered = f"{answer.status}, kept as evidence and not effective: only the person reopens"
        refused = bool(told) and not told["effective"] and told["held_by"] is not None
        return Attempt("an opt-in asserted now, after a STOP", answered if refused else _said(answer), refused)

    async def _alike(
        self,
        tried: str,
        call: Call,
        body: Any = None,
        *,
        path: str | None = None,
        of_owner: Mapping[str, Any] | None = None,
    ) -> Attempt:
        """Read what is the first organisation's, and what does not exist (`body`, `path`), for equal answers.

        Raises DemoFailed if the owner gets that answer too. `of_owner`: members of the body in the owner's call.
        """
        nothing = Call(call.method, call.service, path or call.path, body)
        theirs, none = await self._answer(call, tried), await self._answer(nothing, tried)
        own_body = call.body | of_owner if of_owner else call.body
        owner = await self.target.owner.answer(call.method, call.service, call.path, own_body)
        if owner.status >= 400 or _plain(owner) == _plain(none):
            raise DemoFailed(f"the owner reads nothing there: {call.method} {call.path}: {_said(owner)}")
        alike = (theirs.status, _plain(theirs)) == (none.status, _plain(none))
        return Attempt(f"reading {tried}", f"{_said(theirs)}, {'as' if alike else 'UNLIKE'} for the unknown", alike)

    async def _answer(self, call: Call, tried: str) -> Answer:
        key = f"hostile {tried}" if call.method == "POST" else None
        return await self.api.answer(call.method, call.service, call.path, call.body, key=key)

    async def _leaves(self, body: Mapping[str, Any], oadc: str) -> None:
        """Send an honest message, once dispatch-svc knows the sender and the template."""
        patience, key = Patience(), f"honest {oadc}"
        while (answer := await self.api.answer("POST", "dispatch", "/v1/messages", body, key=key)).status != 202:
            if patience.ends(answer.status, asyncio.get_running_loop().time()):
                raise DemoFailed(f"an honest message is refused: {_said(answer)}")
            await asyncio.sleep(POLL_S)
        message_id = answer.body["message_id"]
        told = await self._settled(message_id)
        if told["status"] not in HANDED_OFF:
            raise DemoFailed(f"an honest message is {told['status']}: {told['reasons']}")
        self.single[message_id] = oadc

    async def _settled(self, message_id: str) -> Any:
        """Return a message once decided and sent. Raises DemoFailed for a standstill."""
        patience = Patience()
        while (told := await self.api.call("GET", "dispatch", f"/v1/messages/{message_id}"))["status"] in UNDECIDED:
            if patience.ends(told["status"], asyncio.get_running_loop().time()):
                raise DemoFailed(f"a message has been {told['status']} for {STANDSTILL_S:g} s: {told['reasons']}")
            await asyncio.sleep(POLL_S)
        return told

    def _put(self, **changed: Any) -> Call:
        return Call("PUT", "consent", f"/v1/senders/{self.own['sender_id']}", {**self.own, **changed})

    def _code(self, to: str, **values: str) -> dict[str, Any]:
        sent = {"sender_id": self.account["sender_id"], "to": to, "category": "transactional"}
        return sent | {"template_id": self.template, "values": {"code": "4821"} | values}

    def _marketing(self, to: str, text: str) -> dict[str, Any]:
        sent = {"sender_id": self.own["sender_id"], "to": to, "category": "marketing", "purpose": "promotions"}
        return sent | {"text": text}

    def _consent(self, number: str) -> dict[str, Any]:
        evidence = {"source": "crm", "text_shown": "Oui"}
        said = {"sender_id": self.own["sender_id"], "purpose": "promotions", "number": number, "basis": "opt_in"}
        return said | {"occurred_at": datetime.now(UTC).isoformat(), "evidence": evidence}


def _send(body: Mapping[str, Any], **more: str) -> Call:
    return Call("POST", "dispatch", "/v1/messages", {**body, **more})


def _other(message_id: str) -> str:
    """Return an id that no message has."""
    return message_id[:-12] + ("0" * 12 if message_id[-12:] != "0" * 12 else "1" * 12)


def _plain(answer: Answer) -> Any:
    """Return the body without its trace and the ids of people, which differ by number."""
    return _without(answer.body, ("trace_id", "subject_id", "subject_ids"))


def _without(body: Any, names: Collection[str]) -> Any:
    match body:
        case dict():
            return {name: _without(value, names) for name, value in body.items() if name not in names}
        case list():
            return [_without(value, names) for value in body]
    return body


def _reasons(answer: Answer) -> set[str]:
    """Return the type of the problem and its reasons; of an advertising word, "advertising"."""
    told = answer.body or {}
    reasons = {str(reason["reason"]).partition(":")[0] for reason in told.get("reasons", ())}
    return reasons | {str(told.get("type", "")).rpartition("/")[2]}


def _said(answer: Answer) -> str:
    """Return the status, and of a refusal its type and reasons."""
    if answer.status < 400:
        return str(answer.status)
    told = answer.body or {}
    reasons = ", ".join(dict.fromkeys(f"{r['field']} {r['reason']}" for r in told.get("reasons", ())))
    return f"{answer.status} {str(told.get('type', '')).rpartition('/')[2]}: {reasons}"
