"""For each alert, series on which it fires and series on which it stays quiet, each close to the threshold.

A value is what the alert compares: a gauge, or the increase within `per` minutes of a counter that rises evenly.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Phase = tuple[int, float, float]  # samples, events for each sample, the share of bad ones


@dataclass(frozen=True)
class Case:
    """Series of samples every `every` minutes, until the alert is looked at. `rules`: minutes between evaluations."""

    alert: str
    about: str
    fires: bool
    series: Mapping[str, str]
    at: int  # minutes
    every: int = 1
    rules: int = 1


@dataclass(frozen=True)
class S:
    """A series. `loud`, `quiet`: the values in the case that fires and in the one that does not."""

    selector: str
    loud: float
    quiet: float
    per: int | None = None  # minutes

    def values(self, value: float, many: int) -> str:
        return f"{value}+0x{many}" if self.per is None else f"0+{value / self.per}x{many}"


def near(alert: str, *series: S, at: int = 150, waits: int | None = None, about: str = "") -> Iterator[Case]:
    """Yield the case that fires and the quiet one.

    With `waits`, also one that is loud for so many minutes only, fewer than the alert waits for.
    """
    told = f" ({about})" if about else ""
    yield Case(alert, f"fires{told}", True, {s.selector: s.values(s.loud, at) for s in series}, at)
    yield Case(alert, f"quiet{told}", False, {s.selector: s.values(s.quiet, at) for s in series}, at)
    if waits is not None:
        late = {}
        for s in series:
            if s.per is None:
                late[s.selector] = f"{s.quiet}+0x{at - waits - 1} {s.loud}+0x{waits}"
            elif s.loud == s.quiet and "le=" not in s.selector:
                late[s.selector] = s.values(s.loud, at)
            else:  # so steep that the window holds enough at once
                before = s.quiet / s.per * (at - waits - 1)
                late[s.selector] = f"0+{s.quiet / s.per}x{at - waits - 1} {before + 10 * s.loud}+{10 * s.loud}x{waits}"
        yield Case(alert, f"not yet{told}", False, late, at)


def quiet(alert: str, about: str, *series: S, at: int = 150) -> Iterator[Case]:
    yield Case(alert, about, False, {s.selector: s.values(s.quiet, at) for s in series}, at)


def _simple() -> Iterator[Case]:
    enforced = 'sms_dispatch_enforcement_seconds_bucket{le="%s"}'
    yield from near(
        "StopSlow",
        S(enforced % "3.0", 98.8, 99.2, 10),
        S(enforced % "5.0", 100, 100, 10),
        S(enforced % "+Inf", 100, 100, 10),
        about="the slowest",
        waits=4,
    )
    yield from near("StopSlow", S("sms_dispatch_oldest_open_enforcement_seconds", 61, 59), waits=4, about="one waits")
    yield from near("ConsentStale", S("sms_dispatch_consent_staleness_seconds", 2.1, 1.9), waits=0)
    yield from near("ConsentDiffers", S("sms_dispatch_consent_differing_rows", 1, 0))
    yield from near("ConsentNotCompared", S("sms_dispatch_consent_compared_age_seconds", 86500, 86300))
    for alert, selector, minutes in (
        ("ConsentLoosened", "sms_dispatch_consent_loosened_total", 60),
        ("SubjectKeysDiffer", 'sms_consumer_watermarks_refused_total{topic="t"}', 5),
        ("SubjectMismatch", "sms_subject_mismatches_total", 60),
        ("CallbacksLost", "sms_inbound_pulled_total", 60),
        ("SentAfterStop", "sms_consent_retroactive_messages_total", 60),
        ("PromiseBroken", "sms_dispatch_violations_total", 10),
        ("WebhookDisabled", "sms_campaign_webhooks_disabled_total", 60),
        ("WebhookEventsLost", "sms_campaign_webhook_events_lost_total", 60),
        ("RequestsLost", 'sms_dispatch_repeated_requests_total{result="new"}', 60),
        ("GatewayNeedsSomebody", "sms_dispatch_gateway_alerts_total", 10),
        ("NoRoute", "sms_dispatch_no_route_total", 10),
        ("LimitReached", 'sms_limits_refused_total{rule="token.messages_per_day"}', 60),
        ("LimitReached", 'sms_limits_refused_total{rule="organisation.spend_per_month"}', 60),
        ("TemplateVersionReused", "sms_dispatch_template_versions_reused_total", 60),
        ("AdvertisingOverridden", 'sms_dispatch_texts_total{result="overridden"}', 60),
        ("OwnWordsNotSent", "sms_consent_own_words_not_sent_total", 60),
        ("AuditLinesLost", "sms_audit_lost_lines_total", 60),
        ("PeopleScanned", 'sms_audit_alarms_total{alarm="scan"}', 60),
        ("CallerRefused", 'sms_audit_alarms_total{alarm="refusals"}', 60),
    ):
        yield from near(alert, S(selector, 1, 0, minutes))
    yield from near("ReviewLate", S('sms_inbound_review_overdue_seconds{concern="doubt"}', 1, 0))
    yield from quiet("LimitReached", "calls", S('sms_limits_refused_total{rule="token.calls"}', 0, 9, 60))
    refused = 'sms_inbound_callbacks_total{provider="p",result="%s"}'
    yield from near(
        "CallbacksRefused",
        S(refused % "not-valid", 60, 56, 60),
        S(refused % "accepted", 1100, 1100, 60),
        waits=9,
        about="the share",
    )
    yield from near("CallbacksRefused", S(refused % "not-valid", 5.2, 4.8, 60), about="the count")
    stranger = 'sms_inbound_callbacks_total{provider="unknown",result="not-valid"}'
    yield from quiet("CallbacksRefused", "nobody's", S(stranger, 0, 900, 60))
    yield from near("CallbacksNotGenuine", S(refused % "unauthorised", 5.2, 4.8, 60))
    yield from near(
        "CallbacksUnheard", S(refused % "unauthorised", 5.2, 4.8, 60), S(refused % "accepted", 0, 0, 60), waits=9
    )
    heard = S(refused % "accepted", 0, 1, 60)
    yield from quiet("CallbacksUnheard", "heard", S(refused % "unauthorised", 0, 60, 60), heard)
    yield from near("CallbacksOfNobody", S(stranger, 5.2, 4.8, 60))
    accepted = 'sms_dispatch_outcomes_total{gateway="g",outcome="%s"}'
    receipts = 'sms_dispatch_gateway_receipts_total{gateway="g"}'
    yield from near("CallbacksSilent", S(accepted % "accepted", 102, 98, 30), S(receipts, 0, 0, 30), waits=9)
    yield from quiet("CallbacksSilent", "a DLR", S(accepted % "accepted", 0, 900, 30), S(receipts, 0, 1, 30))
    pulls = 'sms_inbound_pulls_total{provider="p",account="a",result="%s"}'
    yield from near("PullsFail", S(pulls % "failed", 1, 0, 60), S(pulls % "whole", 0, 0, 60), waits=55)
    yield from quiet("PullsFail", "one whole", S(pulls % "failed", 0, 4, 60), S(pulls % "whole", 0, 1, 60))
    late = 'sms_inbound_lag_seconds_bucket{provider="p",account="a",le="%s"}'
    for about, edge, loud, calm in (("late", "60.0", 48, 52), ("fast", "-2.0", 52, 48)):
        below = [S(late % "-10.0", 0, 0, 60)] if about == "fast" else [S(late % "30.0", 0, 0, 60)]
        above = "0.0" if about == "fast" else "120.0"
        yield from near(
            "OperatorClockOff",
            *below,
            S(late % edge, loud, calm, 60),
            S(late % above, 100, 100, 60),
            S(late % "+Inf", 100, 100, 60),
            about=about,
        )
    yield from near(
        "OperatorClockOff",
        S(late % "60.0", 0, 0, 60),
        S(late % "120.0", 5.2, 4.8, 60),
        S(late % "+Inf", 5.2, 4.8, 60),
        about="few",
        waits=14,
    )
    up = 'kube_deployment_status_replicas_available{namespace="placet",deployment="consent-relay"}'
    yield from near("NothingRuns", S(up, 0, 1), waits=1)
    yield Case("NothingRuns", "fires (nothing tells)", True, {"up": "1+0x150"}, 150)
    restarts = 'kube_pod_container_status_restarts_total{namespace="placet",pod="p"}'
    yield from near("Restarting", S(restarts, 3.1, 2.9, 30))
    yield from near("LogBroken", S("sms_consumer_broken_logs_rows", 1, 0))
    yield from near("ConsumerFailing", S("sms_consumer_failing_seconds", 61, 59), waits=0)
    yield from near("ConsumerStalled", S("sms_consumer_stalled_seconds", 10.1, 9.9), waits=0)
    lag = 'sms_consumer_lag_records{topic="%s"}'
    yield from near("ConsumerBehind", S(lag % "consent.states.v1", 10100, 9900), waits=9, about="any")
    yield from near("ConsumerBehind", S(lag % "dispatch.messages.v1", 510, 490), waits=9, about="messages")
    yield from quiet("ConsumerBehind", "requests wait in Kafka", S(lag % "campaign.requests.v1", 0, 900000))
    yield from near("TemplatesBehind", S(lag % "campaign.templates.v1", 1, 0), waits=0)
    yield from near("OutboxStuck", S("sms_outbox_oldest_row_age_seconds", 10.1, 9.9), waits=0)
    yield from near("PartitionsUnused", S("sms_outbox_widening_seconds", 901, 899), about="by the relay")
    of_reader = 'sms_consumer_new_partitions_waiting_seconds{topic="campaign.requests.v1"}'
    yield from near("PartitionsUnused", S(of_reader, 901, 899), about="by a reader")
    open_ = 'sms_dead_letters_open_records{topic="%s"}'
    yield from near("DeadLetters", S(open_ % "consent.states.v1", 1, 0))
    yield from quiet("DeadLetters", "of an operator", S(open_ % "operator.x.messages.v1", 0, 9))
    yield from near("OperatorRecordsUnread", S(open_ % "operator.x.messages.v1", 1, 0))
    yield from quiet("OperatorRecordsUnread", "of our own", S(open_ % "consent.states.v1", 0, 9))
    yield from near("TimerFailing", S("sms_timer_failures_total", 5.2, 4.8, 10), waits=4)
    yield from near("CampaignFailing", S("sms_campaign_failing_rows", 1, 0), waits=4)
    not_begun = 'sms_dispatch_submits_not_begun_total{result="failed"}'
    yield from near("SubmitsNotBegun", S(not_begun, 1, 0, 2), waits=4)
    yield from near(
        "OutcomesUnknown",
        S(accepted % "unknown", 1.05, 0.95, 15),
        S(accepted % "accepted", 98.95, 99.05, 15),
        waits=4,
    )
    submit = 'sms_dispatch_submit_seconds_bucket{gateway="g",le="%s"}'
    yield from near(
        "GatewaySlow",
        S(submit % "3.0", 20, 20, 10),
        S(submit % "4.0", 94, 96, 10),
        S(submit % "5.0", 100, 100, 10),
        S(submit % "+Inf", 100, 100, 10),
        waits=9,
    )
    trips = 'sms_dispatch_gateway_trips_total{gateway="g",reason="%s"}'
    yield from near("GatewayTripping", S(trips % "unanswered", 5.2, 4.8, 10), waits=4)
    yield from quiet("GatewayTripping", "told already", S(trips % "misconfigured", 0, 60, 10))
    yield from near("SmppBindMissing", S('sms_dispatch_smpp_bound_ratio{gateway="g"}', 0.9, 1), waits=4)
    for result in ("refused", "unreadable"):
        delivery = f'sms_dispatch_smpp_deliveries_total{{gateway="g",result="{result}"}}'
        yield from near("SmppDeliveriesRefused", S(delivery, 1, 0, 10), waits=4)
    yield from near(
        "GatewayRejects",
        S(accepted % "rejected", 210, 190, 10),
        S(accepted % "accepted", 790, 810, 10),
        S(accepted % "deferred", 500, 500, 10),
        about="the share",
    )
    yield from near("GatewayRejects", S(accepted % "rejected", 20.5, 19.5, 10), about="the count")
    asked = 'sms_dispatch_requested_total{lane="transactional",sender="s",state="%s"}'
    yield from near("ManyToStopped", S(asked % "stopped", 210, 190, 60), S(asked % "open", 790, 810, 60))
    yield from near("ManyToStopped", S(asked % "stopped", 51, 49, 60), about="the count")
    for alert, selector in (
        ("ErasureLate", "sms_consent_oldest_erasure_age_seconds"),
        ("RectificationLate", "sms_consent_oldest_rectification_age_seconds"),
        ("KeptTooLong", 'sms_pruning_overdue_seconds{kind="k"}'),
        ("ExpiryLate", "sms_consent_retention_backlog_seconds"),
    ):
        yield from near(alert, S(selector, 86500, 86300))
    yield from near("LedgerUnsealed", S("sms_consent_unsealed_age_seconds", 3610, 3590))


@dataclass(frozen=True)
class Budget:
    """An error budget. `good`, `whole`, `bad`: the series that count these events; `least`: events in a window."""

    name: str
    share: float  # of bad events, that the objective allows
    least: int
    good: str
    whole: str | None = None
    bad: str | None = None

    def series(self, phases: Sequence[Phase]) -> dict[str, str]:
        found = {self.good: _phased([(many, events * (1 - bad)) for many, events, bad in phases])}
        if self.whole is not None:
            found[self.whole] = _phased([(many, events) for many, events, _ in phases])
        if self.bad is not None:
            found[self.bad] = _phased([(many, events * bad) for many, events, bad in phases])
        return found


def _phased(phases: Sequence[tuple[int, float]]) -> str:
    """Return a counter that rises by so much for each sample of each phase."""
    parts, reached = [], 0.0
    for many, each in phases:
        by = round(each, 9)
        parts.append(f"{reached + by:.9f}+{by:.9f}x{many - 1}")
        reached += by * many + 1e-6  # promtool adds up floats, and a counter that falls at all has begun anew
    return " ".join(parts)


HTTP = 'sms_http_request_duration_seconds_%s{route="%s",status="%s"%s}'
CALLBACK = "/v1/callbacks/{provider}/{account}/messages"
BUDGETS = (
    Budget(
        "Stop",
        0.001,
        10,
        'sms_dispatch_enforcement_seconds_bucket{le="5.0"}',
        "sms_dispatch_enforcement_seconds_count",
    ),
    Budget(
        "Callback",
        0.001,
        100,
        HTTP % ("bucket", CALLBACK, "2xx", ',le="2.5"'),
        HTTP % ("count", CALLBACK, "2xx", ""),
    ),
    Budget(
        "Code",
        0.005,
        100,
        'sms_dispatch_code_handoff_seconds_bucket{le="2.5"}',
        "sms_dispatch_code_handoff_seconds_count",
    ),
    Budget(
        "Api",
        0.001,
        100,
        HTTP % ("count", "/v1/consents", "2xx", ""),
        None,
        HTTP % ("count", "/v1/consents", "5xx", ""),
    ),
)


def _burning(budget: Budget) -> Iterator[Case]:
    """Yield cases of both clauses: fast (an hour and five minutes), slow (six hours and half an hour)."""
    alert, fast, slow = f"{budget.name}BudgetBurning", 14.4 * budget.share, 6 * budget.share
    an_hour, six_hours = 1.1 * budget.least / 60, 1.1 * budget.least / 360
    few_an_hour, few = 0.9 * budget.least / 60, 0.9 * budget.least / 360
    calm: Phase = (400, an_hour, 0.0)
    cases: Mapping[str, tuple[bool, Sequence[Phase]]] = {
        "fires fast": (True, [calm, (70, an_hour, 1.04 * fast)]),
        "a good hour with bad minutes": (False, [calm, (64, an_hour, 0.0), (6, an_hour, 9.4 * fast)]),
        "a bad hour with good minutes": (False, [calm, (60, an_hour, 1.3 * fast), (8, an_hour, 0.95 * fast)]),
        "a bad hour of few": (False, [(400, few_an_hour, 0.0), (70, few_an_hour, 1.3 * fast)]),
        "too short": (False, [calm, (56, an_hour, 1.04 * fast), (1, an_hour, 5 * fast)]),
        "fires slowly": (True, [(440, six_hours, 1.06 * slow)]),
        "six good hours with a bad half": (False, [(320, an_hour, 0.0), (120, an_hour, 2.38 * slow)]),
        "six bad hours with a good half": (False, [(400, an_hour, 1.2 * slow), (33, an_hour, 0.9 * slow)]),
        "six bad hours of few": (False, [(440, few, 1.3 * slow)]),
    }
    for about, (fires, phases) in cases.items():
        rarely = 1 if about == "too short" else 5
        yield Case(alert, about, fires, budget.series(phases), sum(many for many, *_ in phases) - 1, rules=rarely)


def _spent(budget: Budget) -> Iterator[Case]:
    """Yield cases of three days and six hours, with a sample every ten minutes."""
    alert, share = f"{budget.name}BudgetSpent", budget.share
    usual, few = 1.1 * budget.least / 432, 0.9 * budget.least / 432
    cases: Mapping[str, tuple[bool, Sequence[Phase]]] = {
        "fires": (True, [(450, usual, 1.05 * share)]),
        "three good days with bad hours": (False, [(408, usual, 0.0), (42, usual, 8 * share)]),
        "three bad days with good hours": (False, [(408, usual, 2 * share), (44, usual, 0.9 * share)]),
        "three bad days of few": (False, [(450, few, 2 * share)]),
        "not for an hour yet": (False, [(450, usual, 0.0), (4, usual, 1.0)]),
    }
    for about, (fires, phases) in cases.items():
        rarely, at = 10 if about.startswith("not") else 30, 10 * (sum(many for many, *_ in phases) - 1)
        yield Case(alert, about, fires, budget.series(phases), at, every=10, rules=rarely)


def cases() -> list[Case]:
    """Return all cases."""
    budgets = [case for budget in BUDGETS for of in (_burning, _spent) for case in of(budget)]
    return [*_simple(), *budgets]
