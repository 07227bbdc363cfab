"""No campaign costs more than its pre-flight says, and a cost that is not known is said not to be."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from campaign.audience.reach import Standing
from campaign.message.short_link import any_token
from campaign.message.variants import REST, Trial
from campaign.message.wording import wording
from campaign.preflight.findings import load as rules
from campaign.preflight.forecast import Forecast, Plan
from campaign.schedule.timing import Place, Timetable, Timing
from common.contracts.consent import Consent
from common.law import load
from common.sms.prices import Prices, read
from common.sms.sms_length import length
from dispatch.gateways.gateway import Capabilities
from tests.support.prices import edition, line, table

FRANCE = load("france")
MONDAY = datetime(2026, 11, 23, 9, tzinfo=UTC)
TEXT = "Maison Lune : " + "a" * 110 + "{name}{if vip}. Merci de votre fidélité à la maison{end}"
ADDED = " STOP au 36111"
NAMES = ("", "Zoé", "Loïc", "Anne Charlotte Eugénie de La Roche", "😀" * 30)
YES = Standing(
    consents=(
        Consent(
            sender_id="lune",
            purpose="promotions",
            state="opted_in",
            basis="opt_in",
            occurred_at=MONDAY - timedelta(days=1),
            evidence_id="e",
            expires_at=MONDAY + timedelta(days=99),
        ),
    )
)

TRIAL = Trial.model_validate(
    {
        "percent": 20,
        "variants": [{"name": "b", "text": TEXT, "percent": 20}],
        "winner": {"by": "fewest_opt_outs", "after_hours": 1},
    }
)

places = st.sampled_from(("FR", "MQ", "GP", "RE"))
price = st.integers(1, 9_999).map(lambda n: f"0.{n:04d}")
lines = st.lists(st.builds(line, places, price, sender=st.sampled_from(("lune", None))), max_size=6, unique_by=str)
people = st.lists(
    st.tuples(places, st.fixed_dictionaries({"name": st.sampled_from(NAMES), "vip": st.sampled_from(("", "oui"))})),
    max_size=12,
)


def prices(editions: Sequence[Sequence[dict[str, object]]]) -> Prices:
    """Return a table of editions on consecutive days, the first on Monday."""
    found = []
    for day, each in enumerate(editions):
        whole = {(one["place"], one.pop("sender", None)): dict(one) for one in map(dict, each)}
        kept = [one | ({"sender": sender} if sender else {}) for (_, sender), one in whole.items()]
        found.append(edition(str((MONDAY + timedelta(days=day)).date()), *kept))
    return read(table(*found))


@given(st.lists(lines, min_size=1, max_size=3), people, st.booleans(), st.booleans(), st.data())
def test_no_campaign_costs_more_than_its_pre_flight_says(
    editions: list[list[dict[str, object]]],
    audience: list[tuple[str, dict[str, str]]],
    adds: bool,
    tried: bool,
    data: st.DataObject,
) -> None:
    known = prices(editions)
    sources = {"a": "Maison Lune, {name}.", "b": TEXT} if tried else {"a": TEXT}
    wordings = {name: wording(source + ("" if adds else ADDED), "fr", {}, "none") for name, source in sources.items()}
    timetable = Timetable(Timing(), "FR", MONDAY, MONDAY, MONDAY + timedelta(days=3), FRANCE)
    forecast = Forecast(
        Plan(
            wordings=wordings,
            sender_id="lune",
            purpose="promotions",
            brand="Maison Lune",
            oadc="LUNE",
            stop_code="36111",
            stop_added=ADDED if adds else "",
            sectors=(),
            timetable=timetable,
            begins_with=lambda _: (),
            prices=known,
            compliance=rules(),
            rate_per_s=None,
            reachable_in=frozenset({"MQ", "GP", "RE"}),
            trial=TRIAL if tried else Trial(),
        )
    )
    gateway = Capabilities(adds_stop=adds)
    real: dict[str, list[int | None]] = {}
    for territory, attributes in audience:
        if not attributes["name"]:
            continue
        lot = data.draw(st.sampled_from((0.0, 0.3, 0.9)))  # of `a`, of `b`, and of the rest
        forecast.add(attributes, territory, YES, lot=lot)
        [(opens, _)] = timetable.window(Place(territory))
        # each leaves whenever it may, as dispatch-svc counts it
        at = data.draw(st.datetimes(opens.replace(tzinfo=None), timetable.ends_by.replace(tzinfo=None))).replace(
            tzinfo=UTC
        )
        variant = forecast.plan.trial.of(lot)
        text = wordings[data.draw(st.sampled_from(("a", "b"))) if variant == REST else variant]
        sent = gateway.as_sent(text.render(attributes, "36111", any_token), "marketing", "36111")
        cost = known.cost(territory, length(sent).segments, at=at, sender_id="lune")
        real.setdefault(territory, []).append(cost)
    found = forecast.outlook
    assert found.would_get == sum(map(len, real.values()))
    for part in found.places:
        if part.cost is not None:
            assert None not in real[part.territory]
            assert part.cost >= sum(cost or 0 for cost in real[part.territory])
            assert part.cost >= part.people, "no message is free"
    priced = [part for part in found.places if part.cost is not None]
    assert found.unpriced == found.would_get - sum(part.people for part in priced)
    assert (found.cost is None) == (not priced and found.would_get > 0)
    assert found.cost is None or found.cost == sum(part.cost or 0 for part in priced)
