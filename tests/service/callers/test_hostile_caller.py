"""A hostile but valid caller against the four services, a broker, Postgres and an operator, whose log is judged.

Mallory has every scope of three senders of one controller, and does anything in any order: adverts in every lane,
alone, in batches, in templates and fields, with an override, under a key used before; templates and campaigns approved
by Mallory or by another person; senders under others' names; own words for answers; opt-ins asserted, imported, asked
for, under a reopening rule, by links, erasures and rectifications; and the whole organisation's token against
strangers. People stop, start, say yes and use their page; Zinc, a stranger on a shared code, writes to people too.

The judge (`judge.py`) reads the operator's log alone, with the people's acts and the test's own list of adverts. Each
example is a deck of DECK, shuffled, with an organisation and people of its own. `make mutants` puts bugs in ("hostile:
…"), each of which this test sees.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from campaign.senders import registry
from dispatch.accepting import api as accepting
from tests.service.callers.judge import broken
from tests.service.callers.play import (
    ADVERTS,
    PROTECTED_NAMES,
    SHARED_CODE,
    STOPS,
    STRANGERS_NAMES,
    Play,
    World,
    opened,
)
from tests.support.running import Surroundings
from tests.support.seed import seed

pytestmark = pytest.mark.any_broker

EXAMPLES = 4
WAYS = (
    *("asserted", "another basis", "a source like ours", "imported", "a question", "a reopening rule", "a link"),
    *("an erasure", "a rectification"),
)
HOW = ("message", "message", "campaign", "test send")
FIELDS = ("stop", "start", "contact", "double_opt_in", "purpose")
KINDS = ("advert", "field", "split", "link")
LANES = ("transactional", "service")


def person(play: Play, dice: Random) -> str:
    return dice.choice(play.people)


def sender(play: Play, dice: Random) -> str:
    return dice.choice((play.main, play.shared))


# --- Mallory ---------------------------------------------------------------------------------------------------------


async def writes_adverts_in_another_lane(play: Play, dice: Random) -> None:
    await play.writes_in(dice.choice(LANES), person(play, dice))


async def overrides(play: Play, dice: Random) -> None:
    await play.overrides(dice.choice(LANES), person(play, dice), dice.choice(ADVERTS))


async def repeats_a_key(play: Play, dice: Random) -> None:
    await play.repeats(dice.choice(LANES), person(play, dice), dice.choice(ADVERTS))


async def writes_a_template(play: Play, dice: Random) -> None:
    for kind in dice.sample(KINDS, 2):
        await play.writes_template(dice.choice(LANES), kind, person(play, dice))


async def takes_strangers_names(play: Play, dice: Random) -> None:
    await play.renames(sender(play, dice), STRANGERS_NAMES, person(play, dice))


async def takes_protected_names(play: Play, dice: Random) -> None:
    await play.renames(sender(play, dice), PROTECTED_NAMES, person(play, dice))


async def takes_an_own_name(play: Play, dice: Random) -> None:
    await play.own_name(sender(play, dice), person(play, dice))


async def rewords_answers(play: Play, dice: Random) -> None:
    for field in dice.sample(FIELDS, 3):
        await play.rewords(field, person(play, dice))


async def changes_a_sender(play: Play, dice: Random) -> None:
    own = str(play.bodies[play.new]["stop_code"])
    scope, code = dice.choice(("sender", "controller")), dice.choice((SHARED_CODE, SHARED_CODE, own))
    await play.changes(play.shared, stop_scope=scope, stop_code=code)


async def presses_and_advertises(play: Play, dice: Random) -> None:
    """Against a person who has stopped, if one has."""
    who, sender_id = play.stopped_people()[0], sender(play, dice)
    for way in dice.sample(WAYS, dice.randint(1, 3)):
        await play.presses(way, who, sender_id)
    await play.advertises(dice.choice(HOW), who, sender_id, dice.choice(ADVERTS))


async def campaigns(play: Play, dice: Random) -> None:
    await play.campaigns(dice.choice(ADVERTS), dice.choice(("schedule", "approve", "cancel", "pause")), ())


async def acts_for_strangers(play: Play, dice: Random) -> None:
    await play.as_a_stranger(person(play, dice), dice.choice(ADVERTS))


# --- people, and Zinc ------------------------------------------------------------------------------------------------


async def stops(play: Play, dice: Random) -> None:
    """STOP to the code of the last message, or to a code that the person knows."""
    who = person(play, dice)
    had = play.of(who)
    known = dice.choice((SHARED_CODE, str(play.bodies[play.main]["stop_code"])))
    await play.stops(who, dice.choice(STOPS), had[-1].code if had and dice.random() < 0.5 else known)


async def stops_everybody(play: Play, dice: Random) -> None:
    await play.stops(person(play, dice), "STOP TOUT", str(play.bodies[play.main]["stop_code"]))
    await play.zinc_writes()


async def stops_the_last_of_two(play: Play, dice: Random) -> None:
    """Zinc and Mallory write on the shared code, one after the other; after the STOP both write again."""
    open_ = [n for n in play.stopped_people()[::-1] if n not in play.zinc_stopped and n != play.people[-1]]
    who, order = (open_ or play.people)[0], dice.choice((True, False))
    for place, zincs in enumerate((order, not order, order, not order)):
        if zincs:
            await play.zinc_writes()
        else:
            await play.advertises("message", who, play.shared, dice.choice(ADVERTS))
        if place == 1:
            await play.stops(who, dice.choice(STOPS), SHARED_CODE)
        else:
            await play.quiet()


async def starts(play: Play, dice: Random) -> None:
    await play.starts(person(play, dice), dice.choice((SHARED_CODE, str(play.bodies[play.main]["stop_code"]))))


async def says_yes(play: Play, dice: Random) -> None:
    await play.says_yes(person(play, dice))


async def uses_the_page(play: Play, dice: Random) -> None:
    await play.uses_page(person(play, dice), dice.choice(("stop", "stop", "yes")))


async def zinc_writes(play: Play, dice: Random) -> None:
    await play.zinc_writes()


Turn = Callable[[Play, Random], Awaitable[None]]
DECK: tuple[Turn, ...] = (
    *(writes_adverts_in_another_lane, overrides, repeats_a_key, writes_a_template, writes_a_template),
    *(
        takes_strangers_names,
        takes_protected_names,
        takes_an_own_name,
        rewords_answers,
        rewords_answers,
        changes_a_sender,
    ),
    *(presses_and_advertises,) * 7,
    *(campaigns, campaigns, acts_for_strangers),
    *(stops, stops, stops, stops_everybody, stops_the_last_of_two, stops_the_last_of_two),
    *(starts, says_yes, uses_the_page, zinc_writes),
)


def judge(play: Play) -> None:
    told = broken(play.log, play.record)
    assert not told, "\n".join(told)


async def _plays(world: World, dice: Random) -> None:
    """Play one deck, and judge. An error names the turns so far."""
    play, trail = Play(world), list[str]()
    await play.begin()
    deck = dice.sample(DECK, len(DECK))
    try:
        for turn in deck:
            trail.append(turn.__name__)
            await turn(play, dice)
            judge(play)
        if dice.random() < 0.5:  # afterwards no limit has room
            trail.append("floods")
            await play.floods(person(play, dice))
        await play.ended()
        judge(play)
    except BaseException as error:
        error.add_note("the turns: " + ", ".join(trail))
        raise


@pytest.mark.timeout(900)  # on a machine that is busy
async def test_whatever_a_hostile_caller_does_no_advert_reaches_who_stopped_and_no_name_is_a_strangers(
    surroundings: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((accepting, "ARRIVES_WITHIN_S"), (registry, "ARRIVE_WITHIN_S")):
        monkeypatch.setattr(module, name, 0.2)  # a stranger's sender is waited for like one on its way
    drawn = seed()
    dice = Random(drawn)
    try:
        async with opened(replace(surroundings, partitions=1), tmp_path) as world:
            for _ in range(EXAMPLES):
                await _plays(world, Random(dice.getrandbits(64)))
    except BaseException as error:
        error.add_note(f"PLACET_TEST_SEED={drawn} repeats this")
        raise
