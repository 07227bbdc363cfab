"""Write the calls of `operations.WRITTEN`, and refusals, into the audit log before the answer leaves.

The middleware knows the caller (`web/auth`), the route, and the people whom the answer shows (`web/edge_id.showing`).
Where the line cannot be written, the answer is 503: the caller learns nothing of a person without a line.
"""

from datetime import UTC, datetime

from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.audit.line import ALLOWED, Line
from common.audit.operations import POLLED, WRITTEN
from common.audit.watching import Alarm, Watch
from common.audit.writer import AuditWriter
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
        failed = begun = False

        async def accounted(message: Message) -> None:
            nonlocal failed, begun
            if message["type"] == "http.response.start" and not begun:
                begun = True
                shown.close()
                try:
                    await self._account(scope, message["status"], shown)
                except Exception as error:
                    failed = True
                    await problems.answer(problems.problem_of(error))(scope, receive, send)
            if not failed:
                await send(message)

        with showing() as shown:
            await self._app(scope, receive, accounted)

    async def _account(self, scope: Scope, status: int, shown: Shown) -> None:
        if status in ATTEMPTED:
            REFUSED.labels(problems.reason_told(scope) or "unknown").inc()
        by: Authenticated | None = scope.get("state", {}).get("authenticated")
        route = scope.get("route")
        if by is None or not isinstance(route, APIRoute):
            return
        kind = WRITTEN.get(route.operation_id or "")
        refused = status in REFUSALS
        if not refused and (kind is None or status >= 400):
            return
        if not refused and route.operation_id in POLLED and not shown.ids:
            return
        writer: AuditWriter = scope["state"]["audit"]
        now, account = datetime.now(UTC), by.caller.account
        people = None if kind == "export" else len(shown.ids)
        line = Line(
            at=now,
            organisation=masked(by.caller.organisation),
            caller=masked(by.caller.subject),
            scope=" ".join(by.required.scopes),
            method=scope["method"],
            route=route.path,
            kind=kind or "call",
            subject_id=next(iter(shown.ids.values())) if people == 1 and not refused else None,
            people=0 if refused else people,
            verdict=(problems.reason_told(scope) or str(status)) if refused else ALLOWED,
            trace_id=trace_id(),
        )
        LINES.labels(line.kind, "refused" if refused else ALLOWED).inc()
        if refused:
            writer.note(line)
            alarm = self._watch.refused(account, now)
        else:
            await writer.keep(line)
            alarm = self._looked_up(by.required, account, shown, now)
        if alarm is not None:
            ALARMS.labels(alarm).inc()

    def _looked_up(self, required: Required, account: str, shown: Shown, now: datetime) -> Alarm | None:
        """Count a look-up by number; return the alarm. An answer without an id counts as another person."""
        if not required.looks_up:
            return None
        person = next(iter(shown.ids), f"{trace_id()}")
        return self._watch.read(account, person, now)
