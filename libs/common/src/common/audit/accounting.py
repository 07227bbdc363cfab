"""Write the calls of `operations.WRITTEN`, and refusals, into the audit log before the answer leaves.

The middleware knows the caller (`web/auth`), the route, and the people whom the answer shows (`web/edge_id.showing`).
Where the line cannot be written, the answer is an error: the caller learns nothing of a person without a line.

The line of a decision is written in the first transaction of the call that writes: neither stands without the other.
Of such a line the people are those noted by then. A decision that writes nothing has its line as a read has.
"""

from datetime import UTC, datetime

from fastapi.routing import APIRoute
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.audit import store
from common.audit.line import ALLOWED, Kind, Line
from common.audit.operations import POLLED, WRITTEN
from common.audit.watching import Alarm, Watch
from common.audit.writer import AuditWriters
from common.db.database import Database, before_commits, has_written, once_committed
from common.telemetry import counter, masked, trace_id
from common.web import problems
from common.web.auth import Authenticated, Required
from common.web.edge_id import Shown, showing

LINES = counter("sms_audit_lines_total", "Lines of the audit log, by kind and verdict.", ["kind", "verdict"])
ALARMS = counter(
    "sms_audit_alarms_total",
    "Accounts that looked up very many people (scan), or were refused very often (refusals), by one process's count.",
    ["alarm"],
)
REFUSED = counter("sms_calls_refused_total", "Calls refused for their caller, by reason.", ["reason"])
REFUSALS = frozenset((403, 404))
ATTEMPTED = frozenset((401, *REFUSALS))


class Accounting:
    """Middleware: outside the look at the caller before the body, so that each refusal is seen."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._watch = Watch()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        failed = begun = decided = False

        async def accounted(message: Message) -> None:
            nonlocal failed, begun
            if message["type"] == "http.response.start" and not begun:
                begun = True
                shown.close()
                try:
                    await self._account(scope, message["status"], shown, decided)
                except Exception as error:
                    failed = True
                    await problems.answer(problems.problem_of(error))(scope, receive, send)
            if not failed:
                await send(message)

        async def decide(database: Database, tx: AsyncConnection) -> None:
            if decided or begun or not _writers(scope).write_to(database):
                return
            line = _line(scope, "decision", ALLOWED, shown) if _kind(scope) == "decision" else None
            if line is not None and await has_written(tx):
                await store.append(tx, [line])
                once_committed(tx, stand)

        def stand() -> None:
            nonlocal decided
            decided = True
            LINES.labels("decision", ALLOWED).inc()

        with showing() as shown, before_commits(decide):
            await self._app(scope, receive, accounted)

    async def _account(self, scope: Scope, status: int, shown: Shown, decided: bool) -> None:
        """Write the line of a call. `decided`: the line stands already, with the decision."""
        count_refusal(scope, status)
        by: Authenticated | None = scope.get("state", {}).get("authenticated")
        kind, refused = _kind(scope), status in REFUSALS
        if by is None or (not refused and (kind is None or status >= 400 or decided)):
            return
        if not refused and scope["route"].operation_id in POLLED and not shown.ids:
            return
        verdict = (problems.reason_told(scope) or str(status)) if refused else ALLOWED
        line = _line(scope, kind or "call", verdict, shown)
        if line is None:
            return
        LINES.labels(line.kind, "refused" if refused else ALLOWED).inc()
        if refused:
            _writers(scope).of(by.caller.organisation).note(line)
            alarm = self._watch.refused(by.caller.account, line.at)
        else:
            await _writers(scope).of(by.caller.organisation).keep(line)
            alarm = self._looked_up(by.required, by.caller.account, shown, line.at)
        if alarm is not None:
            ALARMS.labels(alarm).inc()

    def _looked_up(self, required: Required, account: str, shown: Shown, now: datetime) -> Alarm | None:
        """Count a look-up by number; return the alarm. An answer without an id counts as another person."""
        if not required.looks_up:
            return None
        person = next(iter(shown.ids), f"{trace_id()}")
        return self._watch.read(account, person, now)


def count_refusal(scope: Scope, status: int) -> None:
    """Count a call that was refused for its caller."""
    if status in ATTEMPTED:
        REFUSED.labels(problems.reason_told(scope) or "unknown").inc()


def _writers(scope: Scope) -> AuditWriters:
    writers: AuditWriters = scope["state"]["audit"]
    return writers


def _kind(scope: Scope) -> Kind | None:
    """Return the kind of a call whose route is known and has a line."""
    route = scope.get("route")
    return WRITTEN.get(route.operation_id or "") if isinstance(route, APIRoute) else None


def _line(scope: Scope, kind: Kind, verdict: str, shown: Shown) -> Line | None:
    """Return the line of a call; None without a caller, or without a route of the API."""
    by: Authenticated | None = scope.get("state", {}).get("authenticated")
    route = scope.get("route")
    if by is None or not isinstance(route, APIRoute):
        return None
    refused = verdict != ALLOWED
    people = None if kind == "export" else len(shown.ids)
    return Line(
        at=datetime.now(UTC),
        organisation=masked(by.caller.organisation),
        caller=masked(by.caller.subject),
        scope=" ".join(by.required.scopes),
        method=scope["method"],
        route=route.path,
        kind=kind,
        subject_id=next(iter(shown.ids.values())) if people == 1 and not refused else None,
        people=0 if refused else people,
        verdict=verdict,
        trace_id=trace_id(),
    )
