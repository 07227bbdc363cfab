"""HTTP: the ledger, the erasures and the rectifications of a person's timeline."""

from collections.abc import Iterator, Mapping
from typing import Annotated

from fastapi import APIRouter, Depends

from common.web.auth import Caller, require
from common.web.timeline import Moment, Timeline, TimelineAsked
from consent.calls import Held, any_number, countries_of_all, of_person
from consent.ledger import store as ledger_store
from consent.ledger.chain import Entry
from consent.ledger.store import Subject
from consent.rights import store as rights
from consent.senders import store as senders_store

router = APIRouter(prefix="/v1")


@router.post("/timeline", operation_id="consent_timelines.get")
async def get_timeline(
    body: TimelineAsked, caller: Annotated[Caller, Depends(require("consent:read", looks_up=True))], held: Held
) -> Timeline:
    """Return a person's consents, opt-outs and rights with the senders your token covers.

    Kinds: those of the ledger (`opt_in`, `opt_out`, `request`, `expiry`, `contact`, `correction`), with the source;
    `erasure` and `rectification`, asked of a controller all of whose senders the token covers. An opt-out from every
    sender is a fact, without id and source.
    """
    subject_id = held.subject_keys.subject_id(
        any_number(body.number, held, await countries_of_all(caller, held, body.country))
    )
    controllers = await caller.controllers(await caller.covered())
    async with of_person(held, subject_id).database.begin() as tx:
        subject = await ledger_store.find_subject(tx, subject_id) or Subject(subject_id=subject_id)
        entries = await ledger_store.history(tx, subject_id, subject.entries, controllers)
        senders_of = await senders_store.controllers_of(tx, caller.organisation)
        whole = [one for one, senders in senders_of.items() if caller.names(senders)]
        asked = await rights.asked_of(tx, subject_id, whole)
    ids = {one: held.edge_ids.of(one).shown(subject_id) for one in {*controllers.values(), *whole}}
    moments = [*_of_ledger(entries, controllers, ids), *(_of_right(each, ids) for each in asked)]
    return Timeline.of(moments, body.limit)


def _of_ledger(entries: list[Entry], controllers: Mapping[str, str], ids: Mapping[str, str]) -> Iterator[Moment]:
    for entry in entries:
        said = entry.evidence
        if said.sender_id is None:
            yield Moment(at=said.occurred_at, kind=said.kind)
        else:
            yield Moment(
                at=said.occurred_at,
                kind=said.kind,
                sender_id=said.sender_id,
                subject_id=ids[controllers[said.sender_id]],
                purpose=said.purpose,
                id=said.evidence_id,
                status=said.basis,
                detail=said.source,
            )


def _of_right(asked: rights.AskedRight, ids: Mapping[str, str]) -> Moment:
    return Moment(
        at=asked.requested_at,
        kind=asked.kind,
        sender_id=asked.sender_id,
        subject_id=ids[asked.controller_id],
        id=asked.id,
        status="open" if asked.completed_at is None else "complete",
        detail=asked.detail,
    )
