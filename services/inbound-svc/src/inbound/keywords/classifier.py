"""Classify an MO: stop, start, confirm, contact, review (a person should look), or none.

Pure.

    a likeness, a phrase, a guess      may only tighten: stop or review
    start, confirm                     the whole text, exactly
    a possible opt-out, in doubt       review, never none

Precedence: an opt-out in any clause; a possible opt-out; the other requests. A request for erasure is an opt-out.
"""

import re
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from common.contracts.inbound import Concern, Intent
from inbound.keywords import grammar, likeness, roles
from inbound.keywords.grammar import Clause, Hit, Said
from inbound.keywords.lists import Phrase, Words, words
from inbound.keywords.matching import hits_of, short_code, together, without_courtesy, without_fillers
from inbound.keywords.normal import Normal, normalise
from inbound.keywords.quotes import own_words
from inbound.keywords.sounds import WORD_CHARS, has_glued, sound
from inbound.keywords.unread import hardly_read

READ_CHARS = 2_000  # the longest SMS has 1,530; a longer text is never left at "none"
DISGUISE_CHARS = 160  # one SMS (DOMAIN 2.3, step 6)
NEGATION_REACH = 4  # words before a phrase in which a negation turns the phrase
SUBJECT_REACH = 3  # words from "vous" to the verb
LAST_WORDS = 8  # "trop de messages stop"; in a longer clause a final STOP goes to review
ASKING_WORDS = 5  # "stop c'est pour avoir la promo ?"
ADVERT_WORDS = 4  # a STOP mention below so many words is an advert sent back
OWN_WORDS = 2  # below a STOP mention
SLIP_WORDS = 3  # "tsop acme" goes to review
NAMED_WORDS = 8  # of a brand with its neighbours
COURTESY_AT_END = ("merci", "svp", "stp")
TWICE = re.compile(r"(.)\1")

EXACT, FOLLOWED, PHRASE, DISGUISED, LAST, NEAR, DOUBT, NOTHING = 1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.5, 0.0


class Public(NamedTuple):
    """The people an account is for: language ("es") and country ("US"), None where the account does not say."""

    language: str | None = None
    country: str | None = None


ANYONE = Public()


class Understanding(msgspec.Struct, frozen=True, gc=False):
    """The meaning of an MO.

    `rule`: list and rule which decided. `score`: 1.0 exact, 0.5 a doubt. `normalised`: the text the rules saw, as
    personal as the text itself. `named`: the words beside a STOP, perhaps a brand (`common.sms.keywords_scope`);
    personal too.
    """

    intent: Intent
    rule: str
    score: float
    normalised: str
    named: tuple[str, ...] = ()
    everyone: bool = False
    erasure: bool = False
    concern: Concern = "doubt"


class Finding(msgspec.Struct, frozen=True, gc=False):
    intent: Intent
    rule: str
    score: float
    named: tuple[str, ...] = ()
    concern: Concern = "doubt"


LIST_RULES = ("stop_phrases", "stop_negative_phrases", "stop_opening_phrases", "stop_together")
NONE = Finding("none", "any-1:none", NOTHING)
LIKE = Finding("review", "likeness-1:doubt", DOUBT)
UNREAD = Finding("review", "known-1:unread", DOUBT, concern="unread")


def classify(text: str, *, language: str | None = None, country: str | None = None) -> Understanding:
    """Return the meaning of `text`, as the provider handed the text over.

    `language` ("es"), `country` ("US"): of the sender's public; France where neither is known. Both decide which words
    loosen and which are certain; words which tighten are read in every language.
    """
    known = words(language, country)
    said = text[:READ_CHARS]
    own = own_words(said, known.wrote)
    plain = normalise(own)
    if own is not said and not any(without_courtesy(clause, known) for clause in plain.clauses):
        own, plain = said, normalise(said)  # only a courtesy surrounds the quotation
    found = _read(own, plain, known)
    if own is not said and found.intent not in ("stop", "review"):
        found = _with_quotation(normalise(said), known, found)
    if len(text) > READ_CHARS and found.intent not in ("stop", "review"):
        found = Finding("review", "any-1:too_long", DOUBT)
    if found.intent == "none" and hardly_read(own, plain, known.known, known.traffic):
        found = UNREAD
    if found.intent == "none" and likeness.holds(plain, known):
        found = LIKE
    kind = found.rule.rpartition(":")[2].removeprefix("disguised_")
    return Understanding(
        found.intent,
        found.rule,
        found.score,
        str(plain),
        found.named if found.intent == "stop" else (),
        everyone=kind == "stop_all",
        erasure=kind in ("erase_phrases", "erase_together"),
        concern=found.concern,
    )


def _read(text: str, plain: Normal, known: Words) -> Finding:
    found = _decide(plain, known)
    if plain.disguised and len(text) <= DISGUISE_CHARS and found.intent not in ("stop", "review"):
        undisguised = normalise(text, look_alikes=True)
        if undisguised == plain:  # figures alone are no disguise, and the same words mean the same
            return found
        guess = _decide(undisguised, known)
        if guess.intent in ("stop", "review"):
            file, _, rule = guess.rule.partition(":")
            score = DISGUISED if guess.intent == "stop" else DOUBT
            return replace(guess, rule=f"{file}:disguised_{rule}", score=score)
    return found


def _with_quotation(whole: Normal, known: Words, found: Finding) -> Finding:
    """Return the meaning of a text which asks for nothing outside its quotation.

    A quotation with a STOP mention is our message; any other quoted opt-out goes to review. A start or confirm beside a
    quotation becomes none.
    """
    ours = any(_mentions_code(clause, known) for clause in whole.clauses)
    if not ours and _decide(whole, known).intent in ("stop", "review"):
        return Finding("review", "any-1:quoted", DOUBT)
    return NONE if found.intent in ("start", "confirm") else found


def _decide(plain: Normal, known: Words) -> Finding:
    exact = [without_courtesy(clause, known) for clause in plain.clauses]
    ignored = known.ignored
    content = [[w for w in clause if w not in ignored and not (len(w) == 5 and short_code(w))] for clause in exact]
    hits = [hits_of(clause, without, known) for clause, without in zip(plain.clauses, exact, strict=True)]
    told = zip(plain.clauses, hits, plain.marks, strict=True)
    said = [Said(clause, found, mark, _kinds(clause, found, known)) for clause, found, mark in told]
    for each in said:
        for clause, place, phrase in each.hits if each.has("erase_phrases") else ():
            if phrase.kind == "erase_phrases" and not _negated(clause, place, phrase, known):
                return Finding("stop", f"{phrase.file}:erase_phrases", PHRASE, _named(exact, known))
    all_words = {word for clause in plain.clauses for word in clause}
    erased = []
    if not known.erasers.isdisjoint(all_words):
        erased = [grammar.erasure(each, known) for each in said]
    if "certain" in erased:
        return Finding("stop", "speech-1:erase_together", PHRASE, _named(exact, known))
    praised = not known.praise.isdisjoint(chain.from_iterable(exact))
    doubt = None
    for i, clause in enumerate(plain.clauses):
        opt_out = _opt_out(clause, exact[i], content[i], hits[i], known, plain.question, praised)
        if opt_out and opt_out.rule == "any-1:stop_not_first" and content[i]:
            at = clause.index(content[i][0])
            opt_out = None if roles.asks_nothing(said[i], at, all_words, known) else opt_out
        if opt_out and opt_out.intent == "stop" and _sent_back(clause, content[:i], known):
            opt_out = Finding("review", "any-1:quoted_mention", DOUBT)
        if opt_out and opt_out.intent == "review" and i > 0 and _sent_back(clause, content[:i], known):
            opt_out = None if _advert_and_more(said, i, 0) else opt_out
        if opt_out and opt_out.intent == "stop":
            opt_out = _turned(opt_out, said, i, known)
        if opt_out and opt_out.intent == "stop":
            return replace(opt_out, named=_named(exact, known))
        doubt = doubt or opt_out
    if "perhaps" in erased:
        return Finding("review", "speech-1:erase_together", DOUBT, concern="erasure")
    if right := grammar.right(said):
        return Finding("review", f"{right[0]}:{right[1]}_phrases", DOUBT, concern=right[1])
    if doubt:
        return doubt
    meant = [word for clause in content for word in clause]
    if len(meant) == 1 and (file := _near(meant[0], known)):
        return Finding("stop", f"{file}:near_stop", NEAR)
    if not meant and plain.symbols & known.stop_signs:
        return Finding("stop", "any-1:stop_signs", EXACT)
    for clause, each in zip(content, said, strict=True):
        slip = _near(clause[0], known) if 0 < len(clause) <= SLIP_WORDS else None
        acts = slip and roles.asks_nothing(each, each.clause.index(clause[0]), all_words, known)
        if slip and not (acts or grammar.about_life(each, known) or grammar.of_a_shop(each)):
            return Finding("review", f"{slip}:near_stop_first", DOUBT)
    return (
        _doubt(plain, exact, said, known)
        or _sounded(said, exact, content, known)
        or _request(plain, exact, hits, known)
    )


def _kinds(clause: Clause, found: Sequence[Hit], known: Words) -> set[str]:
    """Return the kinds of the clause's phrases and words, asked for once a clause."""
    kinds = {phrase.kind for *_, phrase in found}
    for name, group in (("traffic", known.traffic), ("urges", known.urges), ("refusing", known.negations_after)):
        if not group.isdisjoint(clause):
            kinds.add(name)
    return kinds


def _turned(found: Finding, said: Sequence[Said], place: int, known: Words) -> Finding | None:
    """Return a STOP, or what the words around make of the STOP: a review, or None where a phrase speaks of life."""
    turn = grammar.turn(said, place, known)
    here = [said[place]] if said[place].question else []
    if turn is None and found.score < EXACT and (right := grammar.right(here)) and right[1] in ("source", "access"):
        return Finding("review", f"{right[0]}:{right[1]}_phrases", DOUBT, concern=right[1])
    rule = found.rule.rpartition(":")[2]
    if turn == "question" and roles.means_what(said[place], {word for each in said for word in each.clause}, known):
        return None
    if turn is None or (turn == "life" and rule == "stop_first"):
        return found
    if found.score == EXACT and turn not in ("regret", "life") and rule != "stop_alone":
        return found
    if turn == "life":
        clause = said[place].clause
        aimed = not known.objects.isdisjoint(clause) and known.erasers.isdisjoint(clause)
        aimed = aimed and not grammar.owns_things(said[place], known)
        return None if rule in LIST_RULES and not aimed else Finding("review", "speech-1:life", DOUBT)
    concern: Concern = "return" if turn == "regret" else "doubt"
    return Finding("review", f"speech-1:{turn}", DOUBT, concern=concern)


def _opt_out(
    clause: Clause,
    exact: Clause,
    content: Clause,
    hits: list[Hit],
    known: Words,
    question: bool,
    praised: bool,
) -> Finding | None:
    """Return the clause's opt-out, a review in doubt, or None."""
    doubt = None
    if content and not _refused(content[0], clause, known):
        first, rest = content[0], content[1:]
        if file := known.stop_first.get(first) or _glued(first, known):
            if praised and len(exact) > 1 and not grammar.everyone(exact, known):
                doubt = Finding("review", "any-1:stop_and_praise", DOUBT)
            elif everyone := known.stop_all.get(tuple(exact)) or grammar.everyone(exact, known):
                return Finding("stop", f"{everyone}:stop_all", EXACT)
            elif not rest:
                return Finding("stop", f"{file}:stop_first", EXACT)
            else:
                doubt = _first_but(clause, exact, first, rest, hits, known, question)
                if doubt is None:
                    return Finding("stop", f"{file}:stop_first", FOLLOWED)
        elif (file := known.stop_alone.get(first)) and not _turned_after(first, clause, known):
            if not rest:
                return Finding("stop", f"{file}:stop_alone", EXACT)
            if exact[0] == first and not question and _courtesy_follows(first, clause, known):
                return Finding("stop", f"{file}:stop_alone", FOLLOWED)
    if doubt is None and (file := known.stop_whole.get(tuple(exact))):
        return Finding("stop", f"{file}:stop_whole", PHRASE)
    if bare := without_fillers(exact, known):
        if file := known.stop_whole.get(bare):
            return Finding("stop", f"{file}:stop_whole", PHRASE)
        if len(bare) == 1 and not question and (file := known.stop_alone.get(bare[0])):
            return Finding("stop", f"{file}:stop_alone", PHRASE)
    joined = "".join(exact) if len(exact) > 1 else ""
    if file := known.stop_first.get(joined) or known.stop_alone.get(joined):
        return Finding("stop", f"{file}:stop_joined", PHRASE)
    for place, word in enumerate(clause):
        if (
            word.startswith(known.stem_prefixes)
            and (file := _stem(word, known))
            and known.done.isdisjoint(clause[max(0, place - 2) : place])
            and _no_negation(clause, place, 1, file, known)
        ):
            return Finding("stop", f"{file}:stop_stems", PHRASE)
    for within, place, phrase in hits:
        if phrase.kind == "stop_phrases" and not _negated(within, place, phrase, known):
            return Finding("stop", f"{phrase.file}:stop_phrases", PHRASE)
        if phrase.kind == "stop_negative_phrases" and known.reports.isdisjoint(clause) and not _told(within, place):
            return Finding("stop", f"{phrase.file}:stop_negative_phrases", PHRASE)
        if phrase.kind == "stop_opening_phrases" and _opens(exact, phrase, question, known):
            return Finding("stop", f"{phrase.file}:stop_opening_phrases", PHRASE)
    if file := together(clause, known):
        return Finding("stop", f"{file}:stop_together", PHRASE)
    if doubt is None and not question and _ends_in_stop(clause, exact, known):
        return Finding("stop", f"{known.stop_last[exact[-1]]}:stop_last", LAST)
    return doubt


def _told(clause: Clause, place: int) -> bool:
    """Return whether "vous" is the subject of the phrase: "vous n'envoyez plus de code ?" only tells."""
    return clause[place].endswith("ez") and "vous" in clause[max(0, place - SUBJECT_REACH) : place]


def _opens(exact: Clause, phrase: Phrase, question: bool, known: Words) -> bool:
    """Return whether the clause begins with the phrase: "plus de sms svp", not "plus de message vocal dispo ?"."""
    length = len(phrase.words)
    if tuple(exact[:length]) != phrase.words or not known.reports.isdisjoint(exact[length:]):
        return False
    return not (question and len(exact) > length + 1)


def _first_but(
    clause: Clause,
    exact: Clause,
    first: str,
    rest: Clause,
    hits: list[Hit],
    known: Words,
    question: bool,
) -> Finding | None:
    """Return a review where a clause begins with STOP in doubt.

    Examples: "stop pas", "I stop at", a long question.
    """
    if _turned_after(first, clause, known) and set(rest) <= known.negations_after:
        return Finding("review", "any-1:stop_negated", DOUBT)
    for *_, phrase in hits:
        if phrase.kind == "stop_idioms" and tuple(exact[: len(phrase.words)]) == phrase.words:
            return Finding("review", f"{phrase.file}:stop_idioms", DOUBT)
    if _against(clause, first, known):
        return Finding("review", "any-1:stop_against", DOUBT)
    if exact[0] != first and exact[0] not in known.answers:
        return Finding("review", "any-1:stop_not_first", DOUBT)
    if question and (len(rest) >= 2 or len(exact) >= ASKING_WORDS):
        return Finding("review", "any-1:stop_and_question", DOUBT)
    return None


def _against(clause: Clause, first: str, known: Words) -> bool:
    """Return whether the STOP is a slogan: "stop aux embouteillages", and not "stop aux pubs"."""
    after = clause[clause.index(first) + 1 :]
    to_things = after[:1] == ("aux",) or after[:2] in (("a", "la"), ("a", "l"))
    return to_things and len(after) > 1 and known.traffic.isdisjoint(after) and grammar.everyone(clause, known) is None


def _ends_in_stop(clause: Clause, exact: Clause, known: Words) -> bool:
    """Return whether a short clause ends in an opt-out word.

    "trop de messages stop" and "ca suffit arretez" do; "je suis au stop" and "... STOP au 36111" do not.
    """
    if not 2 <= len(clause) <= LAST_WORDS or len(exact) < 2 or exact[-1] not in known.stop_last:
        return False
    place = len(clause) - 1 - clause[::-1].index(exact[-1])
    before = clause[place - 1]
    if sum(word in known.stop_first for word in clause) > 1:  # a telegram: "arrive samedi stop bises stop"
        return False
    if before in known.not_before_stop or _code_follows(clause, place):
        return False
    if (before,) in known.courtesy.get(before, ()):  # "plus besoin merci stop"
        return True
    return _no_negation(clause, place, 1, "any-1", known) and before not in known.refusals


def _near(word: str, known: Words) -> str | None:
    """Return the file of an opt-out word one slip away, unless the word is a word of its own."""
    single = TWICE.sub(r"\1", word)
    if word in known.not_near or single in known.not_near:
        return None
    return known.near.get(word) or (known.stop_first.get(single) if single != word else None)


def _doubt(plain: Normal, exact: list[Clause], heard: Sequence[Said], known: Words) -> Finding | None:
    """Return a review where the text may be an opt-out."""
    said = [clause for clause in exact if clause]
    if len(said) == 1 and (file := known.review_alone.get(" ".join(said[0]))):
        return Finding("review", f"{file}:review_alone", DOUBT)
    bought = grammar.of_a_purchase(heard)
    told = {word for each in heard for word in each.clause}
    doubted = not known.doubted.isdisjoint(told) or _has_part(" ".join(told), known)
    for place, each in enumerate(heard):
        if grammar.about_life(each, known):
            continue
        clause, found = each.clause, each.hits
        shop = grammar.of_a_shop(each)
        for at, word in enumerate(clause) if doubted else ():
            if _mentions_stop(word, known):
                if grammar.mistaken(heard, place):
                    return Finding("review", "speech-1:regret", DOUBT, concern="return")
                if not roles.asks_nothing(each, at, told, known) and not _advert_and_more(heard, place, at):
                    return Finding("review", "any-1:mentions_stop", DOUBT)
            if word in known.review_verbs:
                file = known.review_verbs[word]
                if not known.negations[file].isdisjoint(clause):
                    return Finding("review", f"{file}:review_verbs", DOUBT)
            if word in known.review_things and known.reports.isdisjoint(clause):
                file = known.review_things[word]
                if not known.negations[file].isdisjoint(clause):
                    return Finding("review", f"{file}:review_things", DOUBT)
        for _, start, phrase in found:
            if phrase.kind in ("erase_phrases", *LIST_RULES) and not roles.means_what(each, told, known):
                return Finding("review", f"{phrase.file}:mentions_stop_phrase", DOUBT)
            if phrase.kind == "review_phrases" and not (shop and grammar.of_things(each, start, phrase)):
                return Finding("review", f"{phrase.file}:{phrase.kind}", DOUBT)
            if phrase.kind == "review" and not bought:
                return Finding("review", f"{phrase.file}:{phrase.kind}", DOUBT)
    if plain.symbols & (known.stop_signs | known.review_signs):
        return Finding("review", "any-1:review_signs", DOUBT)
    return None


def _sounded(said: Sequence[Said], exact: Sequence[Clause], content: Sequence[Clause], known: Words) -> Finding | None:
    """Return an opt-out that is written as it sounds, or in one word. A clause of everyday things has none."""
    meant = [word for clause in content for word in clause]
    if len(meant) == 1 and meant[0] not in known.known and (file := known.sounded_alone.get(sound(meant[0]))):
        return Finding("stop", f"{file}:sounded_stop_alone", NEAR)
    doubt = None
    bought = grammar.of_a_purchase(said)
    for place, each in enumerate(said):
        if grammar.about_life(each, known) or known.known.issuperset(each.clause):
            continue
        heard = tuple(map(sound, each.clause))
        for start, word in enumerate(heard):
            for phrase in known.sounded.get(word, ()):
                if phrase.kind == "review" and bought:
                    continue
                if heard[start : start + len(phrase.words)] == phrase.words:
                    found = Finding("review", f"{phrase.file}:sounded_{phrase.kind}", DOUBT)
                    if phrase.kind.startswith("stop_") and not _negated(each.clause, start, phrase, known):
                        stop = replace(found, intent="stop", score=NEAR)
                        found = (None if each.question else _turned(stop, said, place, known)) or found
                    if found.intent == "stop":
                        return found
                    doubt = doubt or found
        joined = "".join(exact[place])
        bare = joined.removesuffix(next(filter(joined.endswith, COURTESY_AT_END), ""))
        if not known.glued_stops.isdisjoint((joined, bare, sound(bare))):
            return Finding("stop", "any-1:glued_stop", NEAR)
        several = any(len(word) >= WORD_CHARS and word not in known.known for word in each.clause)
        if several and has_glued(each.clause, known.glued, known.known):
            doubt = doubt or Finding("review", "any-1:glued", DOUBT)
    return doubt


def _request(plain: Normal, exact: list[Clause], hits: list[list[Hit]], known: Words) -> Finding:
    """Return start, confirm, contact or none; start and confirm must be the whole text, and no question."""
    said = [clause for clause in exact if clause]
    if said and len(said[0]) == 1:
        word = said[0][0]
        if len(said) == 1 and not plain.question:
            if file := known.start.get(word):
                return Finding("start", f"{file}:start", EXACT)
            if file := known.confirm.get(word):
                return Finding("confirm", f"{file}:confirm", EXACT)
        if file := known.contact.get(word):
            return Finding("contact", f"{file}:contact", EXACT)
    for found in hits:
        for *_, phrase in found:
            if phrase.kind == "contact_phrases":
                return Finding("contact", f"{phrase.file}:contact_phrases", PHRASE)
    return NONE


def _mentions_code(clause: Clause, known: Words) -> bool:
    return any(word in known.stop_first and _code_follows(clause, place) for place, word in enumerate(clause))


def _code_follows(clause: Clause, place: int) -> bool:
    """Return whether a short code follows, as in our own mention."""
    return any(map(short_code, clause[place + 1 : place + 4]))


def _advert_and_more(said: Sequence[Said], place: int, at: int) -> bool:
    """Return whether the STOP is our mention, inside our text sent back, and the person says more below or asks."""
    clause = said[place].clause
    code = next((i for i in range(at + 1, min(at + 4, len(clause))) if short_code(clause[i])), None)
    if code is None or (at == 0 and place == 0):
        return False
    below = [word for each in said[place + 1 :] for word in each.clause] + list(clause[code + 1 :])
    return len(below) >= OWN_WORDS


def _sent_back(clause: Clause, before: Sequence[Clause], known: Words) -> bool:
    """Return whether the clause is a STOP mention below an advert.

    A reviewer should find out why.
    """
    offered = any(word.isdigit() for clause in before for word in clause)  # a price, a percentage
    if sum(map(len, before)) < ADVERT_WORDS - offered:
        return False
    return _mentions_code(clause, known)


def _named(exact: Sequence[Clause], known: Words) -> tuple[str, ...]:
    """Return the words beside STOP, perhaps a brand; () if all are noise, or too many."""
    others = [w for clause in exact for w in clause if w not in known.stop_first and not short_code(w)]
    if len(others) > NAMED_WORDS or known.ignored.issuperset(others):
        return ()
    return tuple(others)


def _refused(word: str, clause: Clause, known: Words) -> bool:
    """Return whether a refusal precedes: "non stop", "no quiero parar"; not "non merci stop"."""
    place = clause.index(word)
    for before in clause[max(0, place - NEGATION_REACH) : place][::-1]:
        if before in known.refusals:
            return True
        if before in known.courtesy:
            return False
    return False


def _turned_after(word: str, clause: Clause, known: Words) -> bool:
    """Return whether a negation follows: "stop pas", "stop niet"."""
    return not known.negations_after.isdisjoint(clause[clause.index(word) + 1 :][:1])


def _courtesy_follows(word: str, clause: Clause, known: Words) -> bool:
    """Return whether a courtesy follows, which ends the request: "arretez svp c'est insupportable"."""
    after = clause[clause.index(word) + 1 :][:1]
    return bool(after) and (after[0],) in known.courtesy.get(after[0], ())


def _negated(clause: Clause, place: int, phrase: Phrase, known: Words) -> bool:
    return not _no_negation(clause, place, len(phrase.words), phrase.file, known)


def _no_negation(clause: Clause, place: int, length: int, file: str, known: Words) -> bool:
    before = clause[max(0, place - NEGATION_REACH) : place]
    after = clause[place + length : place + length + 1]
    return known.negations[file].isdisjoint(before) and known.negations_after.isdisjoint(after)


def _glued(word: str, known: Words) -> str | None:
    """Return the file of a glued opt-out word: "stoppub", "stopsms"."""
    if word.startswith(known.stop_roots):
        for stop, file in known.stop_first.items():
            tail = word[len(stop) :]
            if word.startswith(stop) and len(tail) > 1 and tail in known.noise:
                return file
    return None


def _stem(word: str, known: Words) -> str | None:
    if not word.startswith(known.stem_prefixes):
        return None
    return next(file for stem, file in known.stems.items() if word.startswith(stem))


def _has_part(said: str, known: Words) -> bool:
    """Return whether a part of an opt-out word stands in a text: without, no word of the text mentions a stop."""
    return any(map(said.__contains__, known.stop_parts))


def _mentions_stop(word: str, known: Words) -> bool:
    if word in known.start:  # UNSTOP
        return False
    if word in known.stop_mentions or word.startswith(known.stem_prefixes):
        return True
    for root in known.stop_roots:
        before, found, after = word.partition(root)
        if found and (not before or not after or (before in known.known and after in known.known)):
            return True
    return False
