"""Write the Grafana dashboards of deploy/k8s/components/dashboards: `make manifests`.

A dashboard is a list of panels, each with its question to Prometheus, its unit, and what to see in it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "deploy" / "k8s" / "components" / "dashboards"
UNITS = frozenset(("s", "short", "reqps", "cps", "percentunit", "bytes"))  # of Grafana
SCHEMA = 39  # of a dashboard; Grafana 10 and later read it
SOURCE = {"type": "prometheus", "uid": "${source}"}
WIDE, HIGH, IN_A_ROW = 8, 8, 3


@dataclass(frozen=True)
class Panel:
    """A graph. `asked`: legend by query; `line`: a threshold of an alert."""

    title: str
    description: str
    unit: str
    asked: Mapping[str, str]
    line: float | None = None


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    panels: Sequence[Panel]


def quantiles(histogram: str, by: str = "", *, of: Sequence[float] = (0.5, 0.99)) -> dict[str, str]:
    """Return queries for quantiles of a histogram over five minutes, by query."""
    groups, legend = (f"{by}, le", f" {{{{{by}}}}}") if by else ("le", "")
    rate = f"sum by ({groups}) (rate({histogram}_bucket[5m]))"
    return {f"histogram_quantile({q:g}, {rate})": f"p{q * 100:g}{legend}" for q in of}


def rates(counter: str, *by: str) -> dict[str, str]:
    """Return the query for the rate of a counter over five minutes."""
    groups = f" by ({', '.join(by)})" if by else ""
    return {f"sum{groups} (rate({counter}[5m]))": " ".join(f"{{{{{each}}}}}" for each in by) or "all"}


def worst(gauge: str, *by: str) -> dict[str, str]:
    groups = f" by ({', '.join(by)})" if by else ""
    return {f"max{groups} ({gauge})": " ".join(f"{{{{{each}}}}}" for each in by) or "worst"}


REQUESTS = "sms_http_request_duration_seconds"
DASHBOARDS = (
    Dashboard(
        "placet-fleet",
        "Placet: fleet",
        (
            Panel(
                "Requests",
                "Calls of each service, by class of the status.",
                "reqps",
                rates(f"{REQUESTS}_count", "job", "status"),
            ),
            Panel(
                "Calls that fail",
                "The share of 5xx; the objective of the APIs is 0.1 %.",
                "percentunit",
                {
                    f'sum by (job) (rate({REQUESTS}_count{{status="5xx"}}[5m]))'
                    f" / sum by (job) (rate({REQUESTS}_count[5m]))": "{{job}}"
                },
                0.001,
            ),
            Panel("Duration of calls", "The slowest 1 % of each service.", "s", quantiles(REQUESTS, "job", of=(0.99,))),
            Panel("In progress", "Requests at work now.", "short", worst("sms_http_in_progress_requests", "job")),
            Panel(
                "Connections refused",
                "Connections closed at a limit or a deadline.",
                "cps",
                rates("sms_http_connections_refused_total", "reason"),
            ),
            Panel("Memory of bodies", "Bytes of the bodies at work.", "bytes", worst("sms_http_bodies_bytes", "job")),
            Panel(
                "Refused by limits",
                "Calls and messages over a limit.",
                "cps",
                rates("sms_limits_refused_total", "rule"),
            ),
            Panel("Timers that fail", "A timer tries again.", "cps", rates("sms_timer_failures_total", "job", "timer")),
            Panel(
                "Versions",
                "Processes by version.",
                "short",
                {"count by (service, version) (sms_build_info)": "{{service}} {{version}}"},
            ),
            Panel(
                "Overdue retention",
                "How long the oldest row has outlived its retention.",
                "s",
                worst("sms_pruning_overdue_seconds", "kind"),
                86400,
            ),
            Panel(
                "Rights in hand",
                "The oldest erasure and rectification.",
                "s",
                {
                    "max(sms_consent_oldest_erasure_age_seconds)": "erasure",
                    "max(sms_consent_oldest_rectification_age_seconds)": "rectification",
                },
                86400,
            ),
            Panel(
                "The ledger's upkeep",
                "The oldest unsealed entry, and the oldest step of retention that is due.",
                "s",
                {
                    "max(sms_consent_unsealed_age_seconds)": "unsealed",
                    "max(sms_consent_retention_backlog_seconds)": "retention",
                },
            ),
        ),
    ),
    Dashboard(
        "placet-stop",
        "Placet: the way of a STOP",
        (
            Panel(
                "From the callback to the gate",
                "How long until an opt-out is enforced; 3 s is the promise.",
                "s",
                quantiles("sms_dispatch_enforcement_seconds", of=(0.5, 0.99, 0.999)),
                3,
            ),
            Panel(
                "Oldest open opt-out",
                "An opt-out waits for a message in flight.",
                "s",
                worst("sms_dispatch_oldest_open_enforcement_seconds"),
                60,
            ),
            Panel(
                "Age of the consents",
                "Marketing is on hold above 2 s.",
                "s",
                worst("sms_dispatch_consent_partition_staleness_seconds", "partition")
                | worst("sms_dispatch_consent_staleness_seconds"),
                2,
            ),
            Panel(
                "Callbacks acknowledged",
                "From the request to the 2xx.",
                "s",
                quantiles("sms_inbound_acknowledge_seconds", "kind"),
                2.5,
            ),
            Panel("Enforced opt-outs", "Opt-outs enforced.", "cps", rates("sms_dispatch_enforcement_seconds_count")),
            Panel(
                "Budget of STOPs",
                "The share of STOPs enforced later than 5 s, of the last hour; 0.1 % is allowed.",
                "percentunit",
                {
                    '1 - sum(rate(sms_dispatch_enforcement_seconds_bucket{le="5.0"}[1h]))'
                    " / sum(rate(sms_dispatch_enforcement_seconds_count[1h]))": "an hour"
                },
                0.001,
            ),
            Panel(
                "The projection compared",
                "Slices that differ from consent-svc's, and those left out because they change.",
                "short",
                {
                    "max(sms_dispatch_consent_differing_rows)": "differing",
                    "max(sms_dispatch_consent_moving_rows)": "moving",
                },
            ),
            Panel(
                "Age of the comparison",
                "How old the newest checksums compared are.",
                "s",
                worst("sms_dispatch_consent_compared_age_seconds"),
                86400,
            ),
            Panel(
                "What must never be",
                "Broken promises, lost STOPs, other keys, messages after a STOP.",
                "cps",
                {
                    "sum by (rule) (rate(sms_dispatch_violations_total[5m]))": "violation: {{rule}}",
                    "sum(rate(sms_dispatch_consent_loosened_total[5m]))": "loosened",
                    "sum(rate(sms_subject_mismatches_total[5m]))": "subject mismatch",
                    "sum(rate(sms_consumer_watermarks_refused_total[5m]))": "watermark refused",
                    "sum(rate(sms_consent_retroactive_messages_total[5m]))": "sent after a STOP",
                },
            ),
        ),
    ),
    Dashboard(
        "placet-dispatch",
        "Placet: dispatch",
        (
            Panel(
                "Decisions",
                "Verdicts of the gate, with the first reason.",
                "cps",
                rates("sms_dispatch_verdicts_total", "verdict", "reason"),
            ),
            Panel(
                "Outcomes", "Hand-offs by outcome.", "cps", rates("sms_dispatch_outcomes_total", "gateway", "outcome")
            ),
            Panel(
                "Duration of submits",
                "Until the gateway's answer.",
                "s",
                quantiles("sms_dispatch_submit_seconds", "gateway"),
                4,
            ),
            Panel(
                "Codes",
                "From the request of a transactional message to its hand-off.",
                "s",
                quantiles("sms_dispatch_code_handoff_seconds"),
                2.5,
            ),
            Panel("DLRs", "DLRs by state.", "cps", rates("sms_dispatch_receipts_total", "state")),
            Panel(
                "DLRs by gateway",
                "A gateway without DLRs brings no STOPs either.",
                "cps",
                rates("sms_dispatch_gateway_receipts_total", "gateway"),
            ),
            Panel(
                "Trips",
                "Trips of circuit breakers, by cause.",
                "cps",
                rates("sms_dispatch_gateway_trips_total", "gateway", "reason"),
            ),
            Panel(
                "Errors of gateways",
                "Of the last requests, those without an answer.",
                "percentunit",
                worst("sms_dispatch_gateway_errors_ratio", "gateway"),
            ),
            Panel(
                "Accounts refused",
                "Credentials, credit or sender: a person has to act.",
                "cps",
                rates("sms_dispatch_gateway_alerts_total", "gateway"),
            ),
            Panel(
                "SMPP binds",
                "The share of binds held; the worst process.",
                "percentunit",
                {"min by (gateway) (sms_dispatch_smpp_bound_ratio)": "{{gateway}}"},
            ),
            Panel(
                "SMPP deliveries",
                "Deliveries by result.",
                "cps",
                rates("sms_dispatch_smpp_deliveries_total", "gateway", "result"),
            ),
            Panel(
                "No route",
                "Permitted messages that no gateway is configured for.",
                "cps",
                rates("sms_dispatch_no_route_total"),
            ),
            Panel(
                "Not begun, lapsed",
                "Submits that did not begin, and permits that lapsed.",
                "cps",
                rates("sms_dispatch_submits_not_begun_total", "result")
                | {"sum(rate(sms_dispatch_permits_lapsed_total[5m]))": "lapsed"},
            ),
            Panel(
                "Requested over HTTP",
                "By lane, and whether the person had stopped the sender.",
                "cps",
                rates("sms_dispatch_requested_total", "lane", "state"),
            ),
            Panel(
                "Texts over HTTP",
                "Templates and free texts, by result; versions reused.",
                "cps",
                rates("sms_dispatch_texts_total", "lane", "kind", "result")
                | {"sum(rate(sms_dispatch_template_versions_reused_total[5m]))": "version reused"},
            ),
            Panel(
                "Recovered",
                "Messages in doubt after a crash, and repeated requests.",
                "cps",
                {
                    "sum by (as) (rate(sms_dispatch_recovered_total[5m]))": "recovered: {{as}}",
                    "sum by (result) (rate(sms_dispatch_repeated_requests_total[5m]))": "repeated: {{result}}",
                },
            ),
        ),
    ),
    Dashboard(
        "placet-campaign",
        "Placet: campaigns",
        (
            Panel(
                "Requests",
                "Recipients requested, repeated, denied.",
                "cps",
                rates("sms_campaign_requests_total", "result"),
            ),
            Panel(
                "Recipients",
                "Changes of statuses, as dispatch-svc reports them.",
                "cps",
                rates("sms_campaign_recipients_total", "status"),
            ),
            Panel(
                "Starts",
                "Campaigns started, and occurrences missed.",
                "cps",
                {
                    "sum(rate(sms_campaign_starts_total[5m]))": "started",
                    "sum(rate(sms_campaign_missed_occurrences_total[5m]))": "missed",
                },
            ),
            Panel(
                "Campaigns that fail",
                "Their next step failed more than once.",
                "short",
                worst("sms_campaign_failing_rows"),
            ),
            Panel("Visits of links", "By kind of visitor.", "cps", rates("sms_campaign_link_visits_total", "result")),
            Panel(
                "Imported lines",
                "Lines of contacts, by result.",
                "cps",
                rates("sms_campaign_import_lines_total", "result"),
            ),
            Panel(
                "Webhooks: delay",
                "From an event's storage to its delivery at the first attempt.",
                "s",
                quantiles("sms_campaign_webhook_seconds"),
            ),
            Panel(
                "Webhooks: attempts",
                "Attempts, by outcome.",
                "cps",
                rates("sms_campaign_webhook_attempts_total", "outcome"),
            ),
            Panel(
                "Webhooks: lost",
                "Webhooks disabled, and events past their retention.",
                "cps",
                rates("sms_campaign_webhooks_disabled_total", "reason")
                | {"sum(rate(sms_campaign_webhook_events_lost_total[5m]))": "events lost"},
            ),
        ),
    ),
    Dashboard(
        "placet-inbound",
        "Placet: inbound and consent",
        (
            Panel(
                "Callbacks",
                "By provider and answer.",
                "cps",
                rates("sms_inbound_callbacks_total", "provider", "kind", "result"),
            ),
            Panel("MOs", "By intent.", "cps", rates("sms_inbound_intents_total", "intent")),
            Panel(
                "Delay of MOs",
                "From the operator's time to the arrival; below 0 the operator's clock is fast.",
                "s",
                quantiles("sms_inbound_lag_seconds", "provider"),
                60,
            ),
            Panel(
                "Pulls",
                "Pulls of providers' lists, by result.",
                "cps",
                rates("sms_inbound_pulls_total", "provider", "result"),
            ),
            Panel(
                "Lost callbacks",
                "MOs and DLRs that a pull found and no callback told.",
                "cps",
                rates("sms_inbound_pulled_total", "provider", "kind"),
            ),
            Panel("Reviews decided", "By intent.", "cps", rates("sms_inbound_reviews_decided_total", "intent")),
            Panel(
                "Reviews overdue",
                "How far beyond its term the oldest open review of a concern is.",
                "s",
                worst("sms_inbound_review_overdue_seconds"),
                3600,
            ),
            Panel(
                "Alarms of the audit log",
                "Scans of numbers and refusals of one caller; lines lost, of which there are none.",
                "cps",
                rates("sms_audit_alarms_total", "alarm") | {"sum(rate(sms_audit_lost_lines_total[5m]))": "lines lost"},
            ),
            Panel(
                "Evidence",
                "Offered to the ledger, by kind and verdict.",
                "cps",
                rates("sms_consent_evidence_total", "kind", "verdict"),
            ),
            Panel(
                "Answers to people",
                "By kind and result; answers in Placet's own words.",
                "cps",
                rates("sms_consent_answers_total", "kind", "result")
                | {"sum(rate(sms_consent_own_words_not_sent_total[5m]))": "own words not sent"},
            ),
            Panel("Double opt-in", "Questions, by result.", "cps", rates("sms_consent_double_opt_ins_total", "result")),
        ),
    ),
    Dashboard(
        "placet-events",
        "Placet: Kafka and PostgreSQL",
        (
            Panel(
                "Lag",
                "Records not yet handled.",
                "short",
                {"sum by (job, topic) (sms_consumer_lag_records)": "{{job}} {{topic}}"},
            ),
            Panel(
                "Handled", "Records passed, by result.", "cps", rates("sms_consumer_records_total", "topic", "result")
            ),
            Panel(
                "Duration of batches",
                "The transaction and the work after its commit.",
                "s",
                quantiles("sms_consumer_batch_seconds", "topic", of=(0.99,)),
            ),
            Panel(
                "Stalled, failing",
                "Since when the worst partition has made no progress.",
                "s",
                {
                    "max by (topic) (sms_consumer_stalled_seconds)": "stalled: {{topic}}",
                    "max by (topic) (sms_consumer_failing_seconds)": "failing: {{topic}}",
                },
                10,
            ),
            Panel(
                "Broken logs, dead letters",
                "A person has to decide on both.",
                "short",
                {
                    "max by (topic) (sms_consumer_broken_logs_rows)": "broken: {{topic}}",
                    "max by (topic) (sms_dead_letters_open_records)": "dead letters: {{topic}}",
                },
            ),
            Panel(
                "Oldest row of the outbox",
                "What waits for Kafka.",
                "s",
                worst("sms_outbox_oldest_row_age_seconds", "job"),
                10,
            ),
            Panel(
                "Added partitions that wait",
                "For how long the relay, or a reader, uses no partitions that were added for more workers.",
                "s",
                {
                    "max by (job) (sms_outbox_widening_seconds)": "relay: {{job}}",
                    "max by (topic) (sms_consumer_new_partitions_waiting_seconds)": "readers: {{topic}}",
                },
                900,
            ),
            Panel("Published", "Events that Kafka acknowledged.", "cps", rates("sms_outbox_published_total", "topic")),
            Panel(
                "Watermarks",
                "The age of the last watermark published.",
                "s",
                {"time() - max by (topic) (sms_outbox_watermark_timestamp_seconds)": "{{topic}}"},
                2,
            ),
            Panel(
                "Relay errors",
                "Failed turns; the relay tries again.",
                "cps",
                rates("sms_outbox_relay_errors_total", "job"),
            ),
            Panel(
                "Connections",
                "Of the pools: used, and the most there may be.",
                "short",
                {
                    'sum by (job) (sms_database_pool_connections{state="used"})': "{{job}} used",
                    'sum by (job) (sms_database_pool_connections{state="most"})': "{{job}} most",
                },
            ),
            Panel(
                "Waiting for a connection",
                "How long a transaction waits.",
                "s",
                quantiles("sms_database_pool_wait_seconds", "job", of=(0.99,)),
            ),
            Panel(
                "Rebuild",
                "Records of the running rebuild of the projection.",
                "short",
                worst("sms_dispatch_rebuild_records", "state"),
            ),
        ),
    ),
)


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.line is not None:
        steps.append({"color": "red", "value": panel.line})
    shown = {"mode": "dashed" if panel.line is not None else "off"}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"h": HIGH, "w": WIDE, "x": number % IN_A_ROW * WIDE, "y": number // IN_A_ROW * HIGH},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "custom": {"thresholdsStyle": shown},
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "targets": [_target(place, expr, legend) for place, (expr, legend) in enumerate(panel.asked.items())],
    }


def _target(place: int, expr: str, legend: str) -> dict[str, Any]:
    """Return a query of a panel. One for the quantile of a histogram asks for the exemplars of its buckets too."""
    target = {"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
    return {**target, "exemplar": True} if expr.startswith("histogram_quantile") else target


def model(dashboard: Dashboard) -> dict[str, Any]:
    """Return the JSON model of a dashboard."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["placet"],
        "schemaVersion": SCHEMA,
        "editable": False,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(dashboard.panels)],
    }


def written() -> dict[Path, str]:
    """Return the files of the dashboards."""
    return {
        FOLDER / f"{each.uid}.json": json.dumps(model(each), indent=1, ensure_ascii=False) + "\n" for each in DASHBOARDS
    }
