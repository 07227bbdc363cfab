"""Texts and files: what holds for any of them."""

import re
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from campaign.audience.attribute import Kind
from campaign.audience.contacts_file import Chunk, Reading, check
from campaign.links.links import Tokens
from campaign.message.folding import Folding, changes, folded, of_author, of_contact
from campaign.message.short_link import any_token
from campaign.message.text import Choice, Field, Link, StopLink, TextRefused, parse
from campaign.message.wording import wording
from common.files.refused import FileRefused
from common.law.stop_mention import mentions_stop
from common.sms.sms_length import GSM7_BASIC, GSM7_EXTENSION, MAX_SEGMENTS, fits, length, outside_gsm7, parts, segments
from tests.support.builders import link_keys, now, subject

gsm7 = st.text(alphabet=GSM7_BASIC + GSM7_EXTENSION, max_size=800)
anything = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=400)
names = st.sampled_from(["a", "b", "stop", "stop_link", "end", "else"])
tokens = st.one_of(
    st.builds("{{{}}}".format, names),
    st.builds("{{{}|{}}}".format, names, st.text("xé’", max_size=3)),
    st.builds("{{if {}}}".format, names),
    st.builds("{{if not {}}}".format, names),
    st.builds("{{else if {} {} {}}}".format, names, st.sampled_from(["=", "!=", "<", ">="]), st.sampled_from("1xé")),
    st.sampled_from(["{else}", "{end}", "{{", "}}", "{", "}", "é ", "’œ😀", "STOP au 36111"]),
    st.sampled_from(["{link https://a.example/1}", "{link https://a.example/2 }", "{link a}", "{link |é}"]),
)
templates = st.lists(tokens, max_size=12).map("".join)  # as people type them: right, nearly right, and wrong
contacts = st.dictionaries(
    st.sampled_from(["a", "b", "end", "else"]), st.sampled_from(["", " ", "1", "é", "{b}", "\n"])
)


@given(st.one_of(gsm7, anything))
def test_a_text_costs_at_least_what_its_units_fill_and_little_more(text: str) -> None:
    found = length(text)
    single, part = (160, 153) if found.encoding == "GSM7" else (70, 67)
    if found.encoding == "UCS2":
        assert found.units == len(text.encode("utf-16-be")) // 2
    if found.units <= single:
        assert found.segments == 1
    else:
        assert -(-found.units // part) <= found.segments <= -(-found.units // (part - 1))


@given(st.text("a€😀", min_size=300, max_size=400).map(lambda some: "a" + some))
@example("a" + "😀" * 329)
@example("😀" * 331)
@example("a" * 335 + "😀")
def test_whether_a_text_fits_is_what_its_length_says(text: str) -> None:
    for written in (text, text * 2):
        assert fits(written) == (length(written).segments <= MAX_SEGMENTS)


@given(st.text(GSM7_BASIC + GSM7_EXTENSION + "ç\xa0\x00€😀", max_size=400))
@example("a" * 160)
@example("a" * 161)
@example("é" * 306 + "à")
@example("[" * 80)
@example("Δ" * 160)
@example("ç" * 71)
def test_the_short_count_of_segments_is_what_the_length_says(text: str) -> None:
    assert segments(text) == length(text).segments


@given(
    st.lists(st.sampled_from(["STOP", "Stop", "ſtop", "36111", "3611", "1", "x", "é", " ", " au ", "\n"]), max_size=12)
)
@example(["STOP", " " * 12, "36111"])
@example(["STOP", " " * 13, "36111"])
@example(["36111", " STOP ", "36111"])
@example(["xSTOP ", "36111"])
def test_a_mention_is_found_wherever_it_stands(words: list[str]) -> None:
    text = "".join(words)
    found = re.search(r"\bSTOP\b.{0,12}\b36111\b", text, re.IGNORECASE)
    assert mentions_stop(text, "36111") == (found is not None)


@given(gsm7, anything)
def test_a_longer_text_never_costs_less(text: str, more: str) -> None:
    assert length(text + more).segments >= length(text).segments


@given(st.one_of(gsm7, anything, st.text("a€😀é’", max_size=400)))
def test_a_text_is_cut_into_parts_that_hold_and_that_break_no_character(text: str) -> None:
    found, cut = length(text), parts(text)
    assert "".join(cut) == text
    assert len(cut) == found.segments
    holds = {("GSM7", True): 160, ("GSM7", False): 153, ("UCS2", True): 70, ("UCS2", False): 67}
    for part in cut:
        units = (
            len(part) + sum(part.count(c) for c in GSM7_EXTENSION)
            if found.encoding == "GSM7"
            else len(part.encode("utf-16-be")) // 2  # raises on half a pair
        )
        assert units <= holds[found.encoding, len(cut) == 1]
    for part, following in pairwise(cut):  # and none is cut sooner than it must be
        assert length(part + following[0] if found.encoding == "GSM7" else f"{part}{following[0]}’").units > 67


@given(st.one_of(gsm7, anything))
def test_a_text_is_ucs_2_because_of_the_characters_pointed_at(text: str) -> None:
    places = outside_gsm7(text)
    assert bool(places) is (length(text).encoding == "UCS2")
    assert all(text[place.at - 1] == place.character for place in places)
    rest = "".join(c for at, c in enumerate(text, 1) if at not in {place.at for place in places})
    assert length(rest).encoding == "GSM7"


@given(st.one_of(anything, st.text("e\u0301\u0327’ç«x`\t", max_size=40)), st.sampled_from(Folding))
@example("l`atelier\t!", Folding.TYPOGRAPHIC)
def test_folding_changes_what_it_shows_and_nothing_twice(text: str, how: Folding) -> None:
    fold = of_author(how)
    shown, rest = "", 0
    for change in changes(text, fold):
        assert text[change.at - 1 :].startswith(change.before)
        shown += text[rest : change.at - 1] + change.after
        rest = change.at - 1 + len(change.before)
    assert shown + text[rest:] == folded(text, fold)
    assert folded(folded(text, fold), fold) == folded(text, fold)
    assert len(outside_gsm7(folded(text, fold))) <= len(outside_gsm7(text))


@given(st.one_of(anything, templates), contacts, st.sampled_from(Folding))
def test_a_text_is_refused_or_leaves_no_field(source: str, attributes: dict[str, str], how: Folding) -> None:
    """Each field of the text is its value or its default, else the contact is told to lack it; what it holds is never
    read as a field."""
    try:
        template = parse(source)
    except TextRefused:
        return
    spoken = wording(source, "fr", {}, how, "m.example", "https://p.example/s/lune/")
    assert (spoken.missing(attributes), spoken.required) == (template.missing(attributes), template.required)
    if (missing := template.missing(attributes)) is not None:
        assert not attributes.get(missing, "").strip()
        return
    author, contact = of_author(how), of_contact(how)
    as_it_is = as_folded = ""
    for part in template.parts:
        for each in part.taken(attributes) if isinstance(part, Choice) else (part,):
            if isinstance(each, Link):
                as_it_is += each.target
                as_folded += "https://m.example/l/xxxxxxxxxxxx"
                continue
            if isinstance(each, StopLink):
                as_folded += "https://p.example/s/lune/" + "x" * 37
                continue
            value = None if isinstance(each, str) else " ".join(attributes.get(each.name, "").split())
            words = each if isinstance(each, str) else each.default or ""
            if isinstance(each, Field) and each.name == "stop":
                value, words = None, "STOP au 36111"
            as_it_is += value or words
            as_folded += folded(value, contact) if value else folded(words, author)
    assert template.render(attributes, "36111") == as_it_is
    assert spoken.render(attributes, "36111", any_token) == as_folded
    assert all(attributes[name].strip() for name in template.required)
    sent = spoken.render(attributes, "36111", Tokens(link_keys, "c1", subject(1), "lune", now()))
    assert length(sent) == length(as_folded)  # what is counted beforehand is what is sent, to the unit


@given(templates)
def test_each_arm_of_each_condition_is_in_a_sample(source: str) -> None:
    try:
        template = parse(source)
    except TextRefused:
        return
    samples = template.samples("36111")
    assert min(map(len, samples)) == len(samples[0]) or length(samples[0]).units <= min(
        length(s).units for s in samples
    )
    for part in template.parts:
        for _, arm in part.arms if isinstance(part, Choice) else ():
            words = [each for each in arm if isinstance(each, str)]
            assert any(all(word in sample for word in words) for sample in samples)
            assert not any(isinstance(each, Field) and f"{{{each.name}}}" in s for each in arm for s in samples)


@given(anything)
def test_escaped_braces_come_back_as_they_were(text: str) -> None:
    literal = text.strip()
    if literal:
        source = literal.replace("{", "{{").replace("}", "}}")
        assert parse(source).render({}, "36111") == literal.replace("\r\n", "\n").strip()


@given(
    st.lists(st.integers(0, 9999), max_size=30),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "cp1252", "utf-16"]),
    st.integers(1, 64),
)
def test_a_file_reads_the_same_however_it_is_cut(
    numbers: list[int], delimiter: str, end: str, charset: str, piece: int
) -> None:
    rows = ["mobile,prénom", *(f"06 39 98 {n // 100:02} {n % 100:02},Zoé" for n in numbers)]
    body = "".join(row.replace(",", delimiter) + end for row in rows).encode(charset)
    parts = [body[i : i + piece] for i in range(0, len(body), piece)]
    found = [
        contact
        for chunk in Reading(parts, check(parts), {}, fictional=True).chunks()
        for contact in zip(chunk.lines, chunk.e164s, chunk.attributes, strict=True)
    ]
    assert found == [(line, f"+3363998{n:04}", {"prenom": "Zoé"}) for line, n in enumerate(numbers, start=2)]


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters='\0\r\n";'), max_size=8)


@given(st.lists(st.lists(cells, min_size=1, max_size=4), min_size=1, max_size=12))
def test_a_row_reads_the_same_with_quotes_and_without(rows: list[list[str]]) -> None:
    """Without any, lines are cut where the delimiter is; with some, by the reader of CSV."""

    def told(quote: str) -> list[Chunk]:
        lines = ["mobile;a;b", *(";".join([f"06399812{n:02}", *row]) for n, row in enumerate(rows)), "0639981299;;"]
        body = "".join(";".join(f"{quote}{cell}{quote}" for cell in line.split(";")) + "\n" for line in lines)
        parts = [body.encode()]
        return list(Reading(parts, check(parts), {"a": Kind.NUMBER}, fictional=True).chunks())

    assert told("") == told('"')


@given(
    st.sampled_from([b"mobile;a;b\n", b'{"mobile": "06", "a": 1}\n', b'{"']),
    st.lists(st.binary(max_size=40), max_size=8),
)
def test_any_bytes_are_read_or_refused(start: bytes, pieces: list[bytes]) -> None:
    try:
        read_as = check([start, *pieces])
    except FileRefused:
        return
    for chunk in Reading([start, *pieces], read_as, {"a": Kind.NUMBER, "b": Kind.DATE}).chunks():
        assert len(chunk.lines) + len(chunk.refusals) > 0
