"""Try a file of contacts over HTTP against an open import: read the file, judge each line, and store nothing."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from campaign.audience import attributes, contacts_file
from campaign.audience.attribute import Kind
from campaign.audience.contacts_file import Reading
from campaign.imports.upload import Held, visible
from campaign.senders import store as senders
from common.files import table
from common.files.columns import NUMBER_TITLES, plain
from common.files.cutting import pieces_of
from common.files.refused import FileRefused
from common.sms.msisdn import NumberProblem, applying
from common.web.auth import Caller, require
from common.web.fields import Storable
from common.web.openapi import refuses
from common.web.problems import TooLarge
from common.web.upload import (
    DRY_RUN_BODY,
    DRY_RUN_LINES,
    DRY_RUN_REFUSALS,
    ColumnRead,
    DryRun,
    FileProblem,
    LineRead,
    LineRefused,
    tried_file,
)

router = APIRouter(prefix="/v1", tags=["contacts"])

AT_ONCE = asyncio.Semaphore(2)  # files in memory


@router.post(
    "/imports/{import_id}/dry-run",
    operation_id="contact_imports.dry_run",
    openapi_extra=DRY_RUN_BODY,
    responses=refuses(TooLarge),
)
async def dry_run(
    import_id: Storable, request: Request, held: Held, caller: Annotated[Caller, Depends(require("contact:write"))]
) -> DryRun:
    """Try a file, or its first lines, against an open import, and store nothing of the file.

    The answer has the first lines as read, the meaning that each column was taken for, and each refusal that the import
    would give. Then send the file to the import itself.
    """
    found = await visible(held, caller, import_id)
    async with AT_ONCE:
        body = await tried_file(request)
        async with held.database.begin() as tx:
            kinds = await attributes.kinds_of(tx, found["sender_id"])
            sender = await senders.find_sender(tx, found["sender_id"])
        countries = applying(found["country"], sender.countries if sender else (), held.settings.country)
        fictional = held.settings.fictional_numbers
        return await asyncio.to_thread(tried, body, kinds, countries=countries, fictional=fictional)


def tried(body: bytes, kinds: Mapping[str, Kind], *, countries: Sequence[str], fictional: bool) -> DryRun:
    """Return what an import would read in the file."""
    answer = DryRun.of_nothing(len(body))
    try:
        answer.columns = _columns(body)
        read_as = contacts_file.check([body])
    except FileRefused as error:
        answer.file_refused = FileProblem(reason=error.reason, detail=str(error))
        return answer
    answer.charset, answer.delimiter = read_as.charset, read_as.delimiter
    answer.encoded_twice = read_as.encoded_twice
    reasons: Counter[str] = Counter()
    for chunk in Reading([body], read_as, kinds, countries=countries, fictional=fictional).chunks():
        answer.lines += len(chunk.lines) + len(chunk.refusals)
        reasons.update(refusal.reason for refusal in chunk.refusals)
        taken = zip(chunk.lines, chunk.e164s, chunk.attributes, strict=True)
        answer.first_lines += [
            LineRead(line=line, read={"number": e164, **said})
            for line, e164, said in islice(taken, DRY_RUN_LINES - len(answer.first_lines))
        ]
        room = DRY_RUN_REFUSALS - len(answer.refusals)
        answer.refusals += [
            LineRefused(line=line, field=_field_of(reason), reason=reason) for line, reason in chunk.refusals[:room]
        ]
    answer.refused, answer.reasons = reasons.total(), dict(reasons)
    return answer


def _columns(body: bytes) -> list[ColumnRead]:
    """Return the columns of a CSV; none of NDJSON."""
    shape, piece = next(pieces_of([body]), (None, None))
    if shape is None or piece is None or shape.format == "ndjson":
        return []
    titles, _ = table.titled(piece, shape)
    names = [plain(title) for title in titles]
    number = next((names.index(name) for name in NUMBER_TITLES if name in names), None)

    def meaning(place: int, name: str) -> str:
        if place == number:
            return "number"
        return "other_number" if name in NUMBER_TITLES else "attribute" if name else "of_no_use"

    return [
        ColumnRead(place=place + 1, title=title.strip(), taken_for=meaning(place, name))
        for place, (title, name) in enumerate(zip(titles, names, strict=True))
    ]


def _field_of(reason: str) -> str | None:
    """Return the field that a reason is about: the attribute behind its colon, or the number."""
    return reason.partition(":")[2] or ("number" if reason in {*NumberProblem} else None)
