"""What holds of double opt-ins whatever people, and whoever types their numbers, do."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from common.contracts.consent import Replies
from common.sms.sms_length import length
from consent.answers.replies import QUESTION_SEGMENTS, Identity, question, question_flaws
from consent.double_opt_in import rules as asking
from consent.double_opt_in.rules import Most, Pace, Question, step
from consent.ledger.rules import NEVER_SEEN, apply, standing, standing_stop
from tests.unit.consent.evidences import NOON, request, stop

HOUR = timedelta(hours=1)
AFTER_STOP = timedelta(days=30)
MOST = Most(a_day=2, a_month=5)
CODES = {"acme": "36111", "globex": "36111", "initech": "36222"}
PURPOSES = ("promotions", "loyalty")


@dataclass(frozen=True)
class Form:
    sender: str
    purpose: str


@dataclass(frozen=True)
class Oui:
    code: str


@dataclass(frozen=True)
class Stop:
    sender: str | None


acts = st.one_of(
    st.builds(Form, st.sampled_from(sorted(CODES)), st.sampled_from(PURPOSES)),
    st.builds(Oui, st.sampled_from(sorted(set(CODES.values())))),
    st.builds(Stop, st.sampled_from((*sorted(CODES), None))),
)
lives = st.lists(st.tuples(st.integers(1, 40), acts), max_size=25)  # hours since the act before


def live(
    life: list[tuple[int, Form | Oui | Stop]],
) -> list[tuple[datetime, str, Question | None, set[tuple[str, str]]]]:
    """What happened at each act: when, what, about which question, and what that opened."""
    state, now, questions, told = NEVER_SEEN, NOON, list[Question](), []
    everything = [(s, p) for s in CODES for p in PURPOSES]
    for place, (hours, act) in enumerate(life):
        now += hours * HOUR
        before = {scope for scope in everything if standing(state, *scope) == "opted_in"}
        what, about = "nothing", None
        match act:
            case Form(sender, purpose):
                fields = {"sender_id": sender, "purpose": purpose, "occurred_at": now, "received_at": now}
                form = request(0, evidence_id=f"r{place}", **fields)
                code = CODES[sender]
                if not asking.withheld(
                    state,
                    form,
                    questions,
                    now,
                    AFTER_STOP,
                    MOST,
                    MOST,
                    senders=(sender,),
                    organisation=(sender,),
                    held=False,
                ) and asking.takes_reply(state, form, code, questions, now):
                    about = Question(
                        evidence_id=form.evidence_id,
                        subject_id="s",
                        sender_id=sender,
                        purpose=purpose,
                        short_code=code,
                        by_reply=True,
                        asked_at=now,
                        expires_at=now + 24 * HOUR,
                        after_stop=standing_stop(state, sender, purpose, None) is not None,
                    )
                    what = "asked"
                    questions.append(about)
                    state = apply(state, form)
            case Oui(code):
                if about := asking.answered(state, questions, code, now):
                    what = "answered"
                    form = request(0, evidence_id=about.evidence_id, sender_id=about.sender_id, purpose=about.purpose)
                    said = asking.yes(form, evidence_id=f"y{place}", source="mo", at=now, received_at=now)
                    state = apply(state, said)
                    questions = [replace(q, confirmed=q.confirmed or q == about) for q in questions]
            case Stop(sender):
                what = "stopped"
                state = apply(
                    state, stop(0, evidence_id=f"s{place}", sender_id=sender, occurred_at=now, received_at=now)
                )
        after = {scope for scope in everything if standing(state, *scope) == "opted_in"}
        told.append((now, what, about, after - before))
    return told


@given(lives)
def test_only_an_answer_opens_anything_and_only_what_its_question_asked(
    life: list[tuple[int, Form | Oui | Stop]],
) -> None:
    for now, what, about, opened in live(life):
        if opened:
            assert what == "answered"
            assert about is not None
            assert opened == {(about.sender_id, about.purpose)}
            assert about.asked_at < now <= about.expires_at


@given(lives)
def test_an_oui_is_never_a_guess_between_two_questions_nor_counts_twice(
    life: list[tuple[int, Form | Oui | Stop]],
) -> None:
    answered = [about.evidence_id for _, what, about, _ in live(life) if what == "answered" and about]
    assert len(answered) == len(set(answered))


@given(lives)
def test_after_a_stop_one_question_a_month_at_most_of_each_controller_until_a_yes(
    life: list[tuple[int, Form | Oui | Stop]],
) -> None:
    last = dict[str, datetime]()  # by controller: each of the senders is one
    life = [(1, Stop(None)), *life]
    for now, what, about, _ in live(life):
        if what == "answered":
            break  # they want to hear from somebody again: from here on it is a matter of pace
        if what == "asked":
            assert about is not None
            assert about.sender_id not in last or now - last[about.sender_id] >= AFTER_STOP
            last[about.sender_id] = now


@given(lives)
def test_all_senders_together_never_ask_more_than_the_most_of_a_day_and_of_a_month(
    life: list[tuple[int, Form | Oui | Stop]],
) -> None:
    asked = [now for now, what, _, _ in live(life) if what == "asked"]
    for at in asked:
        assert sum(at - timedelta(days=1) < each <= at for each in asked) <= MOST.a_day
        assert sum(at - timedelta(days=30) < each <= at for each in asked) <= MOST.a_month


@given(
    st.integers(1, 8), st.integers(1, 48), st.lists(st.integers(0, 300), min_size=1, max_size=40), st.integers(0, 300)
)
def test_the_pace_is_never_more_than_twice_the_count_in_a_period_and_says_exactly_when_to_come_back(
    count: int, hours: int, pauses: list[int], more: int
) -> None:
    pace, full_at, now = Pace(count, hours * HOUR), None, NOON
    taken: list[datetime] = []
    for minutes in pauses:
        now += timedelta(minutes=minutes)
        after, wait = step(full_at, pace, now)
        if wait:
            assert step(full_at, pace, now + wait - timedelta(milliseconds=1))[1] > timedelta(0)
            assert step(full_at, pace, now + wait)[1] == timedelta(0)
            assert wait <= pace.each
        else:
            taken.append(now)
            full_at = after
        assert sum(1 for at in taken if now - pace.period < at <= now) <= 2 * count
    assert step(full_at, pace, now + pace.period)[1] == timedelta(0), "who waits long enough is served"


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=200).filter(
    lambda text: bool(text.split())
)


@given(TEXTS, st.text(st.sampled_from("ACMEÉ &"), min_size=1, max_size=40), st.booleans())
def test_a_question_always_says_who_asks_how_to_say_yes_and_how_to_stop(wording: str, brand: str, link: bool) -> None:
    url = "https://p.example/c/" + "A" * 28 if link else None
    said = question(Identity("Acme SAS", brand, "contact"), wording, "36111", url=url)
    assert said.startswith(f"{brand} : ")
    assert "OUI" in said
    assert said.endswith("STOP au 36111.")
    assert url is None or f" {url} " in said


@given(st.text(st.sampled_from("abcé êôœ’« »çî"), min_size=1, max_size=200).filter(lambda text: bool(text.split())))
def test_french_words_never_double_the_price(wording: str) -> None:
    said = length(question(Identity("Acme SAS", "Acme", "contact"), wording, "36111"))
    assert said.encoding == "GSM7"
    assert said.segments <= QUESTION_SEGMENTS


@given(st.text(max_size=60))
def test_a_template_of_unknown_fields_is_refused_and_what_is_filled_in_is_never_read_as_one(name: str) -> None:
    good = "{brand} : {purpose} ? Dites OUI. STOP {stop_code}"
    assert list(question_flaws(good)) == []
    if name not in ("brand", "purpose", "stop_code", "link"):
        assert list(question_flaws(good + "{" + name + "}"))
    own = Identity("Acme SAS", "{purpose}", "contact", own=Replies(double_opt_in=good))
    assert question(own, "{stop_code}", "36111") == "{purpose} : {stop_code} ? Dites OUI. STOP 36111"
