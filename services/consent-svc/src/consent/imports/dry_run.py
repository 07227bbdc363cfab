"""Try a file over HTTP against the terms of an open import: read the file, judge each line, and store nothing."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request

from common.files import charset, columns, table
from common.files.charset import Seen
from common.files.columns import Meaning
from common.files.cutting import Format, Piece, Shape, cut, shape_of
from common.files.refused import FileRefused
from common.sms.msisdn import NumberProblem, NumberRefused, any_number, applying
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
from consent.imports import lines
from consent.imports.files import ImportFile
from consent.imports.lines import Layout, Line, Unreadable
from consent.imports.statements import Statements, asked, kind_of
from consent.imports.upload import Held, visible
from consent.ledger import rules as ledger
from consent.senders import store as senders_store

router = APIRouter(prefix="/v1", tags=["imports"])

AT_ONCE = asyncio.Semaphore(2)  # files in memory


@router.post(
    "/imports/{import_id}/dry-run",
    operation_id="consent_imports.dry_run",
    openapi_extra=DRY_RUN_BODY,
    responses=refuses(TooLarge),
)
async def dry_run(
    import_id: Storable, request: Request, caller: Annotated[Caller, Depends(require("consent:write"))], held: Held
) -> DryRun:
    """Try a file, or its first lines, by the terms of an open import, and store nothing of the file.

    The answer has the first lines as read, the meaning that each column was taken for, and each refusal that an import
    would give before the ledger is asked. Then send the file to the import itself.
    """
    file = await visible(held, caller, import_id)
    async with AT_ONCE:
        body = await tried_file(request)
        async with held.database.begin() as tx:
            purposes = await senders_store.purposes_of(tx, {file.sender_id} if file.sender_id else ())
        statements = Statements(held, file, purposes.get(file.sender_id or ""), datetime.now(UTC))
        fictional = held.settings.fictional_numbers
        return await asyncio.to_thread(_Trial(file, statements, fictional=fictional).of, body)


class _Trial:
    """A file tried; computation for a thread."""

    def __init__(self, file: ImportFile, statements: Statements, *, fictional: bool) -> None:
        self._file = file
        self._statements = statements
        self._fictional = fictional
        self._columns: list[ColumnRead] = []
        self._shape: Shape | None = None
        self._seen = Seen.NOTHING
        self._first: list[LineRead] = []
        self._refusals: list[LineRefused] = []
        self._reasons: Counter[str] = Counter()
        self._lines = self._refused = 0

    def of(self, body: bytes) -> DryRun:
        problem = None
        try:
            self._read(body)
        except FileRefused as error:
            problem = FileProblem(reason=error.reason, detail=str(error))
        return DryRun(
            bytes=len(body),
            charset=self._charset(),
            delimiter=(self._shape.delimiter or None) if self._shape else None,
            encoded_twice=Seen.TWICE in self._seen,
            file_refused=problem,
            columns=self._columns,
            unknown_columns=[each.title for each in self._columns if each.taken_for == Meaning.UNKNOWN],
            first_lines=self._first,
            lines=self._lines,
            refused=self._refused,
            reasons=dict(self._reasons),
            refusals=self._refusals,
        )

    def _charset(self) -> str | None:
        if self._shape is None:
            return None
        try:
            return self._shape.wide or charset.decided(self._seen)
        except FileRefused:
            return None

    def _read(self, body: bytes) -> None:
        file_format: Format = "csv" if self._file.format == "csv" else "ndjson"
        self._shape = shape_of(body, file_format, last=True)
        assert self._shape is not None, "the last bytes are here"
        pieces, _ = cut(body, self._shape, last=True)
        for piece in pieces:
            self._seen |= charset.seen_in(piece.body)
        if not pieces:
            raise FileRefused("empty", "the file is empty")
        layout, pieces[0], line = self._begun(pieces[0], self._shape)
        for piece in pieces:
            for at, said in self._statements.lines(piece.body, layout, line):
                self._line(at, said)
            line += piece.lines

    def _begun(self, piece: Piece, shape: Shape) -> tuple[Layout, Piece, int]:
        kind = kind_of(self._file)
        if shape.format == "csv":
            taken = columns.taken(table.titled(piece, shape)[0], kind)
            self._columns = [ColumnRead(place=c.place, title=c.title, taken_for=c.meaning) for c in taken]
        ignore = asked(self._file).other_columns == "ignore"
        layout, behind = lines.begun(piece, shape, kind, ignore_others=ignore)
        layout = Layout(shape, layout.columns, self._seen)
        _ = layout.survey
        return layout, behind, 1 + piece.lines - behind.lines

    def _line(self, at: int, said: Line | Unreadable) -> None:
        self._lines += 1
        reasons = self._against(said)
        if reasons:
            self._refused += 1
            self._reasons.update(reasons)
            room = DRY_RUN_REFUSALS - len(self._refusals)
            self._refusals += [LineRefused(line=at, field=field_of(each), reason=each) for each in reasons[:room]]
        elif len(self._first) < DRY_RUN_LINES and isinstance(said, Line):
            self._first.append(LineRead(line=at, read=self._shown(said)))

    def _against(self, said: Line | Unreadable) -> Sequence[str]:
        """Return the reasons against a line, those of the rules of evidence too."""
        [found] = self._statements.said_by([said])
        if isinstance(found, tuple):
            return found
        evidence = found[0].evidence
        return tuple(ledger.refusals(evidence, evidence.received_at))

    def _shown(self, line: Line) -> dict[str, str]:
        fields = {name: value for name, value in msgspec.structs.asdict(line).items() if value is not None}
        read = {name: _written(value) for name, value in fields.items()}
        if line.number is not None:
            try:
                read["number"] = any_number(
                    line.number,
                    countries=applying(line.country, self._statements.countries),
                    fictional=self._fictional,
                )
            except NumberRefused:
                return read
        return read


def _written(value: object) -> str:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)


def field_of(reason: str) -> str | None:
    """Return the field that a reason is about, by the reason's own name."""
    if reason in {*NumberProblem}:
        return "number"
    if reason == "unknown_purpose":
        return "purpose"
    if reason == "occurred_in_the_future":
        return "occurred_at"
    if reason in ("consent_not_given", "consent_given"):
        return Meaning.ACCEPTS_SMS.value
    named = (name for name in (*lines.COLUMNS, Meaning.ACCEPTS_SMS.value) if reason.startswith(f"{name}_"))
    return next(named, None)
