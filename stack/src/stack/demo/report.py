"""Compare the API's account of the demo with the operator's own log. Pure: facts in, checks and figures out.

The report trusts no claim of Placet: messages and times come from the simulator, consents from the demo's own file, and
numbers are normalised by code of its own.
"""

import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from stack.demo import brands
from stack.demo.brands import MARKETING, SERVICE, Attempt, Brand, Check, Fact, Other

FICTIONAL = re.compile(r"63998(\d{4})$")


def folded(written: str) -> str | None:
    """Return a fictional number as E.164, in any spelling; `None` for any other text."""
    plain = unicodedata.normalize("NFKC", written)
    digits = re.sub(r"\D", "", plain)
    found = None if re.search(r"[^\W\d]", plain.removeprefix("tel:")) else FICTIONAL.search(digits)
    return f"+3363998{found[1]}" if found and len(digits) <= 14 else None


@dataclass(frozen=True, slots=True)
class Imported:
    """The API's account of an import."""

    lines: int = 0
    created: int = 0
    updated: int = 0
    duplicates: int = 0
    refused: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign, from the API. `recipients`: message id to status. `oadc`: of its sender."""

    name: str
    oadc: str
    statistics: Fact
    recipients: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Facts:
    """The input. `log`: the simulator's lines. `enforcements`: all of GET /v1/enforcements.

    `brands`: of the shared code. `certain`: people who stopped one brand between campaigns, no hand-off in doubt.
    `attempts`: of the hostile caller, whose texts have `hostile_mark`. `single`: the OADC by message, for messages
    outside campaigns.
    """

    log: Sequence[Fact]
    campaigns: Sequence[Campaign]
    enforcements: Sequence[Fact]
    imported: Imported
    lines_in_file: int
    brands: Sequence[Brand]
    certain: frozenset[str]  # E.164
    attempts: Sequence[Attempt]
    hostile_mark: str
    per_number: int  # the hostile caller's limit
    single: Mapping[str, str]
    stop_code: str
    started_at: datetime
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class Report:
    """`cut_off`: the people who did not hear of a brand that they did not stop. `explained`: the services' account."""

    checks: list[Check] = field(default_factory=list)
    cut_off: list[Other] = field(default_factory=list)
    explained: list[str] = field(default_factory=list)
    stops: int = 0
    enforced_ms: list[float] = field(default_factory=list)  # from webhook to enforcement, per STOP
    messages: int = 0
    messages_per_s: float = 0.0

    @property
    def holds(self) -> bool:
        return all(check.holds for check in self.checks)

    def percentile_ms(self, percent: int) -> float:
        """Return a percentile of the time from webhook to enforcement."""
        if len(self.enforced_ms) < 2:
            return self.enforced_ms[0] if self.enforced_ms else 0.0
        return statistics.quantiles(self.enforced_ms, n=100, method="inclusive")[percent - 1]


def report(facts: Facts) -> Report:
    """Return every check, computed from the simulator's log."""
    submits = [line for line in facts.log if line["kind"] == "submit"]
    taken = [s for s in submits if s["status"] == "accepted" and not s.get("replay")]
    marketing = [s for s in taken if s["category"] == MARKETING]
    replies = {line["id"]: line for line in facts.log if line["kind"] == "reply"}
    acknowledged = {line["id"] for line in facts.log if line["kind"] == "reply_acknowledged"}
    enforced = _enforced_by_reply(facts.enforcements)
    stops = brands.stops(facts.log, enforced, [brand.oadc for brand in facts.brands], facts.certain)
    in_doubt = sum(campaign.statistics["unknown"] for campaign in facts.campaigns)
    left = brands.others(facts.certain, stops, submits, facts.brands)
    checks = [
        brands.after_enforced(marketing, stops),
        twice(marketing, facts.campaigns),
        without_consent(marketing, facts.brands),
        without_stop_mention(marketing, facts.stop_code),
        stops_not_enforced(replies, acknowledged, enforced),
        confirmed_twice(taken),
        brands.kept_from_the_other(left),
        brands.strangers_named(submits, facts.brands, in_doubt),
        *(adds_up(campaign) for campaign in facts.campaigns),
        *(agrees(campaign, submits) for campaign in facts.campaigns),
        import_adds_up(facts.imported, facts.lines_in_file),
        brands.refused(facts.attempts),
        brands.hostile_texts(submits, facts.hostile_mark),
        brands.under_another_name(submits, _oadcs(facts), facts.brands),
        brands.adverts_elsewhere(submits),
        brands.abroad(submits),
        brands.too_many(submits, facts.per_number),
    ]
    largest = max(facts.campaigns, key=lambda campaign: len(campaign.recipients))
    times = sorted(brands.at(s) for s in marketing if s["reference"] in largest.recipients)
    span_s = (times[-1] - times[0]).total_seconds() if times else 0.0
    return Report(
        checks=checks,
        cut_off=[other for other in left if not other.wrote],
        stops=len(replies),
        enforced_ms=list(_enforced_ms(facts.enforcements).values()),
        messages=len(marketing),
        messages_per_s=len(times) / span_s if span_s else 0.0,
    )


def twice(marketing: Sequence[Fact], campaigns: Sequence[Campaign]) -> Check:
    """Check promise 4: no reference is sent twice, and no number twice within a campaign."""
    of = {message_id: c.name for c in campaigns for message_id in c.recipients}
    references = Counter(s["reference"] for s in marketing)
    numbers = Counter((of.get(s["reference"]), s["to"]) for s in marketing)
    extra = sum(n - 1 for n in references.values()) + sum(n - 1 for n in numbers.values())
    return Check("messages sent twice", extra, f"{len(marketing)} messages")


def without_consent(marketing: Iterable[Fact], of: Iterable[Brand]) -> Check:
    """Check promise 2: every marketing message has a consent to its brand."""
    consented = {brand.oadc: brand.consented for brand in of}
    return Check("messages without consent", sum(s["to"] not in consented.get(s["from"], ()) for s in marketing))


def without_stop_mention(marketing: Iterable[Fact], stop_code: str) -> Check:
    mention = re.compile(rf"\bSTOP\b.{{0,12}}\b{stop_code}\b", re.IGNORECASE)
    return Check("messages without the STOP mention", sum(not mention.search(s["text"]) for s in marketing))


def stops_not_enforced(replies: Mapping[str, Fact], acknowledged: set[str], enforced: Mapping[str, datetime]) -> Check:
    lost = sum(reply_id not in acknowledged or reply_id not in enforced for reply_id in replies)
    return Check("STOPs lost, or not yet enforced", lost, f"{len(replies)} STOPs in many spellings")


def confirmed_twice(taken: Iterable[Fact]) -> Check:
    """Check that a person gets each confirmation once, however often the person says STOP.

    A STOP TOUT after a STOP has a wider effect, and a confirmation of its own.
    """
    told = Counter((s["to"], s["text"]) for s in taken if s["category"] == SERVICE)
    return Check("STOPs confirmed twice", sum(n - 1 for n in told.values()), f"{len({to for to, _ in told})} confirmed")


def adds_up(campaign: Campaign) -> Check:
    """Check promise 4: audience = pending + denied + deferred + handed_off + expired; handed_off = its outcomes."""
    s = campaign.statistics
    audience = s["pending"] + s["denied"] + s["deferred"] + s["handed_off"] + s["expired"]
    outcomes = s["accepted"] + s["rejected"] + s["unknown"]
    off = (
        abs(s["audience"] - audience) + abs(s["handed_off"] - outcomes) + abs(s["audience"] - len(campaign.recipients))
    )
    return Check(f"{campaign.name}: numbers that do not add up", off, f"audience {s['audience']}")


def agrees(campaign: Campaign, submits: Iterable[Fact]) -> Check:
    """Check the ledger against the operator's log: the same outcomes, and no other submit.

    A message with the status `unknown` may be at the operator or not.
    """
    sent = {s["reference"]: s["status"] for s in submits if s["reference"] in campaign.recipients}
    wrong = sum(
        (status in ("accepted", "rejected") and sent.get(message_id) != status)
        or (status not in ("accepted", "rejected", "unknown") and message_id in sent)
        for message_id, status in campaign.recipients.items()
    )
    return Check(f"{campaign.name}: outcomes the operator's log contradicts", wrong, f"{len(sent)} taken")


def import_adds_up(imported: Imported, lines_in_file: int) -> Check:
    parts = imported.created + imported.updated + imported.duplicates + imported.refused
    reasons = sum(imported.reasons.values())
    off = abs(imported.lines - parts) + abs(imported.lines - lines_in_file) + abs(imported.refused - reasons)
    return Check("import lines unaccounted for", off, f"{lines_in_file} lines")


def _enforced_by_reply(enforcements: Iterable[Fact]) -> dict[str, datetime]:
    """Return the instant of enforcement by the operator's id of the reply."""
    found: dict[str, datetime] = {}
    for enforcement in enforcements:
        if enforcement["enforced_at"] and enforcement["reference"]:
            reply_id = enforcement["reference"].rsplit("/", 1)[1]
            instant = datetime.fromisoformat(enforcement["enforced_at"])
            found[reply_id] = max(instant, found.get(reply_id, instant))
    return found


def _enforced_ms(enforcements: Iterable[Fact]) -> dict[str, float]:
    """Return the time from webhook to enforcement by STOP: a STOP may stop several brands, and one of them later."""
    found: dict[str, float] = {}
    for e in enforcements:
        if e["enforced_at"]:
            took = datetime.fromisoformat(e["enforced_at"]) - datetime.fromisoformat(e["received_at"])
            stop = e["reference"] or f"{e['subject_id']} {e['received_at']}"
            found[stop] = max(took.total_seconds() * 1000, found.get(stop, 0.0))
    return found


def _oadcs(facts: Facts) -> dict[str, str]:
    """Return the OADC of the sender by message."""
    asked = {message_id: campaign.oadc for campaign in facts.campaigns for message_id in campaign.recipients}
    return asked | dict(facts.single)
