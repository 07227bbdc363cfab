"""A collector of spans over OTLP, the steps of a trace, and its picture: what docs/traces.md shows."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html import escape

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

ROW, WIDTH, LABELS, PAD = 24, 1060, 470, 12
COLOURS = {"inbound": "#8250df", "consent": "#1a7f37", "dispatch": "#0969da", "campaign": "#bf5700"}


@dataclass(frozen=True)
class Kept:
    """A span that a collector got."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    begun_ns: int
    ended_ns: int
    attributes: Mapping[str, str | int]
    links: frozenset[str]  # ids of spans

    @property
    def step(self) -> str:
        return f"{self.service}: {self.name}"


@dataclass
class Collector:
    url: str = ""
    spans: list[Kept] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    services: set[str] = field(default_factory=set)  # as the resources say

    async def traces(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        body = await request.read()
        self.bodies.append(body)
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = (each for each in of_resource.resource.attributes if each.key == "service.name")
            self.services |= {each.value.string_value for each in named}
            for of_scope in of_resource.scope_spans:
                self.spans += [
                    Kept(
                        service=of_scope.scope.name,
                        name=span.name,
                        trace=span.trace_id.hex(),
                        id=span.span_id.hex(),
                        parent=span.parent_span_id.hex(),
                        begun_ns=span.start_time_unix_nano,
                        ended_ns=span.end_time_unix_nano,
                        attributes={each.key: _value(each.value) for each in span.attributes},
                        links=frozenset(link.span_id.hex() for link in span.links),
                    )
                    for span in of_scope.spans
                ]
        return web.Response(content_type="application/x-protobuf")

    def of(self, trace: str) -> list[Kept]:
        return [span for span in self.spans if span.trace == trace]


def _value(value: AnyValue) -> str | int:
    return value.string_value if value.HasField("string_value") else value.int_value


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """An OpenTelemetry collector over real HTTP."""
    collector, app = Collector(), web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/traces", collector.traces)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()


def follows(spans: Sequence[Kept], steps: Sequence[str]) -> list[Kept]:
    """Return the spans of these steps, each a child of the step before, or fail with the steps that there are."""
    candidates = [[span] for span in spans if span.step == steps[0] and not span.parent]
    for step in steps[1:]:
        candidates = [
            [*path, span] for path in candidates for span in spans if span.step == step and span.parent == path[-1].id
        ]
        assert candidates, f"no {step!r} where it should be among {sorted(span.step for span in spans)}"
    return candidates[0]


def in_order(spans: Iterable[Kept]) -> list[tuple[int, Kept]]:
    """Return the spans by traces and time, each under its parent, with its depth."""
    known = sorted(spans, key=lambda span: (span.begun_ns, span.name))
    ids = {span.id for span in known}
    found: list[tuple[int, Kept]] = []

    def add(span: Kept, depth: int) -> None:
        found.append((depth, span))
        for child in known:
            if child.parent == span.id:
                add(child, depth + 1)

    for span in known:
        if span.parent not in ids:
            add(span, 0)
    return found


def drawn(title: str, spans: Iterable[Kept]) -> str:
    """Return the picture of traces, an SVG: a row for each span, from its beginning to its end."""
    rows = in_order(spans)
    begun, ended = min(span.begun_ns for _, span in rows), max(span.ended_ns for _, span in rows)
    scale = (WIDTH - LABELS - 90) / max(ended - begun, 1)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {ROW * (len(rows) + 2) + PAD}"'
        ' font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{PAD}" y="{ROW - 6}" font-weight="bold">{escape(title)}</text>',
    ]
    traces = list(dict.fromkeys(span.trace for _, span in rows))
    for number, (depth, span) in enumerate(rows, start=1):
        y, took_ms = ROW * number + PAD, (span.ended_ns - span.begun_ns) / 1e6
        x, wide = LABELS + (span.begun_ns - begun) * scale, max((span.ended_ns - span.begun_ns) * scale, 2.0)
        if traces.index(span.trace) % 2:
            lines.append(f'<rect x="0" y="{y}" width="{WIDTH}" height="{ROW}" fill="#f6f8fa"/>')
        lines += [
            f'<text x="{PAD + 14 * depth}" y="{y + 16}">{escape(span.step)}</text>',
            f'<rect x="{x:.1f}" y="{y + 5}" width="{wide:.1f}" height="{ROW - 10}" fill="{COLOURS[span.service]}"/>',
            f'<text x="{x + wide + 4:.1f}" y="{y + 16}" fill="#57606a">{took_ms:.1f} ms</text>',
        ]
    whole_ms = (ended - begun) / 1e6
    y = ROW * (len(rows) + 1) + PAD + 16
    lines.append(f'<text x="{PAD}" y="{y}" fill="#57606a">from the first to the last: {whole_ms:.0f} ms</text>')
    return "\n".join([*lines, "</svg>", ""])


def steps_shown(page: str, title: str) -> list[str]:
    """Return the steps that docs/traces.md lists under a title."""
    section = page.split(f"\n## {title}\n")[1].split("\n## ")[0]
    block = section.split("```\n")[1]
    return [line.strip() for line in block.splitlines()]
