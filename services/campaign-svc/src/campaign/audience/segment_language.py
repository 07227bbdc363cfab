"""Parse segments, written in JSON, and compile segments to SQL. Pure.

    {"all": […]}   {"any": […]}   {"not": …}
    {"attribute": "points", "gte": 100, "lt": 500}     is, in, exists of all; lt, lte, gt, gte of numbers and dates;
                                                       starts_with of texts; anniversary_in of dates (days from today)
    {"territory": ["GP", "MQ"]}
    {"consent": "promotions", "is": ["opted_in"]}      of the segment's sender
    {"received": {"campaign": "cmp-…"}}                {"received": {"days": 30}}
    {"clicked": {"campaign": "cmp-…"}}                 {"clicked": {"days": 30}}, of tracked links

A date is `2026-11-26`, or `{"days": -30}` from today. Conditions are never null: a contact whose attribute is absent,
empty or of another kind meets no comparison, so `not` includes the contact.

The author's input, names too, travels as bound parameters.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, NoReturn, get_args

from campaign.accounts import UNDELIVERED
from campaign.audience.attribute import DATE, MAX_CHARS, NUMBER, Kind, is_date
from common.contracts.consent import State
from common.sms.labels import holds_a_number

MAX_DEPTH = 8
MAX_CONDITIONS = 100
MAX_VALUES = 500
MAX_DAYS = 36_525  # a century

FROM = "contact AS c LEFT JOIN standing AS k ON k.subject_id = c.subject_id"  # free without a use of `k`
# the message left, and no DLR denies its arrival
GOT = f"r.status IN ('accepted', 'unknown') AND coalesce(r.receipt, '') NOT IN {UNDELIVERED}"

Operator = Literal["is", "in", "exists", "lt", "lte", "gt", "gte", "starts_with", "anniversary_in"]
Scalar = str | bool | Decimal
_STATES = frozenset(get_args(State))
_ORDER = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_OF_KIND: Mapping[Kind, Collection[str]] = {
    Kind.TEXT: ("is", "in", "exists", "starts_with"),
    Kind.NUMBER: ("is", "in", "exists", *_ORDER),
    Kind.DATE: ("is", "in", "exists", *_ORDER, "anniversary_in"),
    Kind.BOOLEAN: ("is", "exists"),
}


class SegmentRefused(ValueError):
    """An invalid expression. `pointer` (RFC 6901) locates the fault."""

    def __init__(self, pointer: str, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.pointer = pointer
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FromToday:
    days: int


@dataclass(frozen=True, slots=True)
class AllOf:
    of: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    of: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Not:
    of: "Expression"


@dataclass(frozen=True, slots=True)
class Attribute:
    """A comparison; `value` is a tuple for `in`, a boolean for `exists`, a FromToday for `anniversary_in`."""

    name: str
    kind: Kind
    operator: str
    value: Scalar | FromToday | tuple[Scalar | FromToday, ...]


@dataclass(frozen=True, slots=True)
class Territory:
    among: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Consent:
    purpose: str
    states: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Received:
    """A message of this campaign, or of any of the sender's in the last `days`.

    Without a hand-off time a message counts if its campaign had not ended: rather too long than too short.
    """

    campaign_id: str | None
    days: int | None
    pointer: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Clicked:
    """A tracked link of this campaign, or of any of the sender's in the last `days`."""

    campaign_id: str | None
    days: int | None
    pointer: str = field(default="", compare=False)


Expression = AllOf | AnyOf | Not | Attribute | Territory | Consent | Received | Clicked


@dataclass(frozen=True, slots=True)
class Condition:
    """SQL over `FROM`, never null."""

    sql: str
    values: Mapping[str, object]


EVERYBODY = Condition("true", {})


def where(conditions: Mapping[str, Sequence[str]]) -> Expression:
    """Return the condition: each attribute has a listed value, compared as text."""
    return AllOf(tuple(Attribute(name, Kind.TEXT, "in", tuple(values)) for name, values in conditions.items()))


# --- read ------------------------------------------------------------------------------------------------------------


def parse(source: object, kinds: Mapping[str, Kind], purposes: Collection[str] | None = None) -> Expression:
    """Parse an expression. Raises SegmentRefused.

    `purposes`: the sender's; `None` for an expression checked before.
    """
    return _Reader(kinds, purposes).read(source, "", 1)


def parts(expression: Expression) -> Iterator[Expression]:
    """Yield the expression and its sub-expressions."""
    yield expression
    match expression:
        case AllOf(of) | AnyOf(of):
            for each in of:
                yield from parts(each)
        case Not(inner):
            yield from parts(inner)


@dataclass
class _Reader:
    kinds: Mapping[str, Kind]
    purposes: Collection[str] | None
    conditions: int = 0

    def read(self, source: object, at: str, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            _refuse(at, "too_deep", f"more than {MAX_DEPTH} conditions within each other")
        self.conditions += 1
        if self.conditions > MAX_CONDITIONS:
            _refuse(at, "too_long", f"more than {MAX_CONDITIONS} conditions")
        if not isinstance(source, dict) or not source:
            _refuse(at, "not_a_condition", "a condition is an object that says all, any, not, attribute, …")
        match next((word for word in _WORDS if word in source), None):
            case "all":
                return AllOf(self._several(source, "all", at, depth))
            case "any":
                return AnyOf(self._several(source, "any", at, depth))
            case "not":
                _only(source, ("not",), at)
                return Not(self.read(source["not"], f"{at}/not", depth + 1))
            case "attribute":
                return self._attribute(source, at)
            case "territory":
                _only(source, ("territory",), at)
                return Territory(tuple(_texts(source["territory"], f"{at}/territory")))
            case "consent":
                return self._consent(source, at)
            case "received":
                _only(source, ("received",), at)
                return Received(*_past(source["received"], f"{at}/received"))
            case "clicked":
                _only(source, ("clicked",), at)
                return Clicked(*_past(source["clicked"], f"{at}/clicked"))
            case _:
                _refuse(_below(at, next(iter(source))), "unknown_word", f"a condition says one of {', '.join(_WORDS)}")

    def _several(self, source: Mapping[str, object], word: str, at: str, depth: int) -> tuple[Expression, ...]:
        _only(source, (word,), at)
        inner = source[word]
        if not isinstance(inner, list) or not inner:
            _refuse(f"{at}/{word}", "not_a_list", "a list of at least one condition")
        return tuple(self.read(each, f"{at}/{word}/{place}", depth + 1) for place, each in enumerate(inner))

    def _attribute(self, source: Mapping[str, object], at: str) -> Expression:
        name = source["attribute"]
        if not isinstance(name, str) or (kind := self.kinds.get(name)) is None:
            _refuse(f"{at}/attribute", "unknown_attribute", "no contact of this sender has it, nor was it declared")
        allowed = _OF_KIND[kind]
        _only(source, ("attribute", *allowed), at, f"a {kind} is compared by {', '.join(allowed)}")
        found = [
            Attribute(name, kind, word, _value(source[word], word, kind, f"{at}/{word}"))
            for word in allowed
            if word in source
        ]
        if not found:
            _refuse(at, "nothing_compared", f"a {kind} is compared by {', '.join(allowed)}")
        self.conditions += len(found) - 1
        return found[0] if len(found) == 1 else AllOf(tuple(found))

    def _consent(self, source: Mapping[str, object], at: str) -> Expression:
        _only(source, ("consent", "is"), at)
        purpose = source["consent"]
        if not isinstance(purpose, str) or (self.purposes is not None and purpose not in self.purposes):
            _refuse(f"{at}/consent", "unknown_purpose", "the sender has no such purpose")
        states = tuple(_texts(source.get("is"), f"{at}/is"))
        for place, state in enumerate(states):
            if state not in _STATES:
                one = isinstance(source["is"], str)
                _refuse(f"{at}/is" if one else f"{at}/is/{place}", "unknown_state", f"one of {', '.join(_WRITTEN)}")
        return Consent(purpose, states)


_WORDS = ("all", "any", "not", "attribute", "territory", "consent", "received", "clicked")
_WRITTEN = get_args(State)


def _past(source: object, at: str) -> tuple[str | None, int | None, str]:
    """Return (campaign, days, pointer)."""
    if not isinstance(source, dict) or len(source) != 1:
        _refuse(at, "not_a_past_message", '{"campaign": …} or {"days": …}')
    match source:
        case {"campaign": str(campaign_id)}:
            return _text(campaign_id, f"{at}/campaign"), None, f"{at}/campaign"
        case {"days": days}:
            return None, _days(days, f"{at}/days", least=1), f"{at}/days"
        case _:
            _refuse(at, "not_a_past_message", '{"campaign": …} or {"days": …}')


def _value(source: object, word: str, kind: Kind, at: str) -> Any:
    if word == "exists":
        if not isinstance(source, bool):
            _refuse(at, "not_a_boolean", "true or false")
        return source
    if word == "anniversary_in":
        return FromToday(_days(source, at, least=0))
    if word == "in":
        if not isinstance(source, list) or not 1 <= len(source) <= MAX_VALUES:
            _refuse(at, "not_a_list", f"a list of 1 to {MAX_VALUES} values")
        return tuple(_scalar(each, kind, f"{at}/{place}") for place, each in enumerate(source))
    return _scalar(source, kind, at)


def _scalar(source: object, kind: Kind, at: str) -> Scalar | FromToday:
    match kind, source:
        case Kind.TEXT, str(text):
            return _text(text, at)
        case Kind.BOOLEAN, bool(yes):
            return yes
        case Kind.NUMBER, int() | float() if not isinstance(source, bool) and abs(source) < 1e15:
            return Decimal(_without_number(str(source), at))
        case Kind.DATE, str(day) if is_date(day):
            return day
        case Kind.DATE, {"days": days, **more} if not more:
            return FromToday(_days(days, f"{at}/days", least=-MAX_DAYS))
        case _:
            _refuse(at, f"not_a_{kind}", _SHAPES[kind])


_SHAPES = {
    Kind.TEXT: "a text",
    Kind.NUMBER: "a number of at most 15 digits",
    Kind.DATE: 'a day, "2026-11-26", or days from today, {"days": -30}',
    Kind.BOOLEAN: "true or false",
}


def _text(source: object, at: str) -> str:
    if source == "":
        _refuse(at, "empty", 'nothing is compared with an empty text; "exists" asks whether there is any')
    if not isinstance(source, str) or "\0" in source or len(source) > MAX_CHARS or _clean(source) != source:
        _refuse(at, "not_a_text", f"a text of at most {MAX_CHARS} characters")
    return _without_number(source, at)


def _without_number(source: str, at: str) -> str:
    """Return `source`, which stays after a person's erasure."""
    if holds_a_number(source):
        _refuse(at, "phone_number", "looks like a phone number: a segment stays after the person is erased")
    return source


def _texts(source: object, at: str) -> Iterator[str]:
    """Yield a text, or each of a list."""
    if isinstance(source, list) and 1 <= len(source) <= MAX_VALUES:
        for place, each in enumerate(source):
            yield _text(each, f"{at}/{place}")
    else:
        yield _text(source, at)


def _days(source: object, at: str, *, least: int) -> int:
    if not isinstance(source, int) or isinstance(source, bool) or not least <= source <= MAX_DAYS:
        _refuse(at, "not_days", f"a whole number from {least} to {MAX_DAYS}")
    return source


def _only(source: Mapping[str, object], words: Collection[str], at: str, detail: str = "") -> None:
    for word in source:
        if word not in words:
            _refuse(_below(at, word), "unknown_word", detail or f"beside {words[0]} stands nothing like it")  # type: ignore[index]


def _below(at: str, word: str) -> str:
    return f"{at}/{_clean(word[:60]).replace('~', '~0').replace('/', '~1')}"


def _clean(text: str) -> str:
    """Replace lone surrogates, which JSON can escape and UTF-8 cannot encode."""
    return text.encode(errors="replace").decode()


def _refuse(at: str, reason: str, detail: str) -> NoReturn:
    raise SegmentRefused(at, reason, detail)


# --- written as SQL --------------------------------------------------------------------------------------------------


def compiled(expression: Expression, sender_id: str, now: datetime, today: date) -> Condition:
    """Compile to SQL; `today` is the date in the sender's country."""
    writer = _Writer(sender_id, now, today)
    return Condition(writer.write(expression), writer.values)


@dataclass
class _Writer:
    sender_id: str
    at: datetime
    day: date
    values: dict[str, object] = field(default_factory=dict)

    def write(self, expression: Expression) -> str:
        match expression:
            case AllOf(of):
                return f"({' AND '.join(map(self.write, of))})"
            case AnyOf(of):
                return f"({' OR '.join(map(self.write, of))})"
            case Not(inner):
                return f"NOT {self.write(inner)}"
            case Attribute():
                return self._attribute(expression)
            case Territory(among):
                return f"coalesce(c.territory = ANY({self._bound(list(among), 'text[]')}), false)"
            case Consent(purpose, states):
                return f"({self._state(purpose)} = ANY({self._bound(list(states), 'text[]')}))"
            case Received(campaign_id, days):
                return self._received(campaign_id, days)
            case Clicked(campaign_id, days):
                return self._clicked(campaign_id, days)

    def _attribute(self, asked: Attribute) -> str:
        held = f"c.attributes ->> {self._bound(asked.name, 'text')}"
        if asked.operator == "exists":
            return f"(coalesce({held}, '') {'<>' if asked.value else '='} '')"
        if asked.operator == "starts_with":
            return f"coalesce(starts_with({held}, {self._bound(asked.value, 'text')}), false)"
        column = "text"
        if asked.kind is Kind.NUMBER:
            held, column = f"CASE WHEN {held} ~ '{NUMBER}' THEN CAST({held} AS numeric) END", "numeric"
        elif asked.kind is Kind.DATE:
            held = f"CASE WHEN {held} ~ '{DATE}' THEN {held} END"
        if asked.operator == "anniversary_in":
            assert isinstance(asked.value, FromToday)
            days = list(anniversaries(self.day + timedelta(days=asked.value.days)))
            return f"coalesce(right({held}, 5) = ANY({self._bound(days, 'text[]')}), false)"
        if asked.operator == "in":
            assert isinstance(asked.value, tuple)
            among = [self._plain(each) for each in asked.value]
            return f"coalesce({held} = ANY({self._bound(among, f'{column}[]')}), false)"
        assert not isinstance(asked.value, tuple)
        sign = _ORDER.get(asked.operator, "=")
        order = ' COLLATE "C"' if column == "text" else ""
        return f"coalesce(({held}){order} {sign} {self._bound(self._plain(asked.value), column)}, false)"

    def _plain(self, value: Scalar | FromToday) -> str | Decimal:
        """Return the stored form."""
        match value:
            case FromToday(days):
                return (self.day + timedelta(days=days)).isoformat()
            case bool(yes):
                return "true" if yes else "false"
            case _:
                return value

    def _state(self, purpose: str) -> str:
        """Write `reach.state` in SQL."""
        sender, purpose = self._bound(self.sender_id, "text"), self._bound(purpose, "text")
        return (
            "(SELECT CASE WHEN k.told IS NULL THEN 'unknown'"
            " WHEN k.told -> 'suppressions' <> '[]' AND EXISTS (SELECT FROM"
            " jsonb_to_recordset(k.told -> 'suppressions') AS s(sender_id text, since timestamptz)"
            f" WHERE (s.sender_id IS NULL OR s.sender_id = {sender})"
            " AND (e.state IS NULL OR s.since >= e.occurred_at)) THEN 'opted_out'"
            " WHEN k.told @> '{\"unreadable\": true}' THEN 'unknown'"
            f" WHEN e.state = 'opted_in' AND e.expires_at <= {self._bound(self.at, 'timestamptz')} THEN 'expired'"
            " ELSE coalesce(e.state, 'unknown') END FROM (SELECT) AS one LEFT JOIN LATERAL (SELECT i.state,"
            " i.occurred_at, i.expires_at FROM jsonb_to_recordset(k.told -> 'consents') AS i(sender_id text,"
            " purpose text, state text, occurred_at timestamptz, expires_at timestamptz)"
            f" WHERE i.sender_id = {sender} AND i.purpose = {purpose} LIMIT 1) AS e ON true)"
        )

    def _received(self, campaign_id: str | None, days: int | None) -> str:
        if campaign_id is not None:
            of = f"r.campaign_id = {self._bound(campaign_id, 'text')}"
        else:
            assert days is not None
            since = self._bound(self.at - timedelta(days=days), "timestamptz")
            of = (
                "r.campaign_id IN (SELECT g.campaign_id FROM campaign AS g"
                f" WHERE g.sender_id = {self._bound(self.sender_id, 'text')} AND g.started_at IS NOT NULL"
                f" AND (g.ended_at IS NULL OR g.ended_at > {since}))"
                f" AND (r.handed_off_at IS NULL OR r.handed_off_at > {since})"
            )
        return f"EXISTS (SELECT FROM recipient AS r WHERE r.subject_id = c.subject_id AND {GOT} AND {of})"

    def _clicked(self, campaign_id: str | None, days: int | None) -> str:
        if campaign_id is not None:
            of = f"l.campaign_id = {self._bound(campaign_id, 'text')}"
        else:
            assert days is not None
            of = (
                f"l.last_clicked_at > {self._bound(self.at - timedelta(days=days), 'timestamptz')} AND l.campaign_id IN"
                f" (SELECT g.campaign_id FROM campaign AS g WHERE g.sender_id = {self._bound(self.sender_id, 'text')})"
            )
        return f"EXISTS (SELECT FROM link AS l WHERE l.subject_id = c.subject_id AND l.clicks > 0 AND {of})"

    def _bound(self, value: object, column: str) -> str:
        name = f"segment_{len(self.values)}"
        self.values[name] = value
        return f"CAST(:{name} AS {column})"


def anniversaries(day: date) -> Iterator[str]:
    """Yield the MM-DD celebrated on a day; on 28 February of a common year 02-29 too."""
    yield day.isoformat()[5:]
    if (day.month, day.day) == (2, 28) and (day + timedelta(days=1)).month == 3:
        yield "02-29"
