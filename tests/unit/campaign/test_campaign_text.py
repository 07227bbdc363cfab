"""Fields, the STOP mention, and what a text costs. The golden segments are DOMAIN 7.1."""

import pytest

from campaign.links.links import Tokens
from campaign.message.text import TextProblem, TextRefused, check, costly, parse, refused
from campaign.message.wording import wording
from common.privacy.stop_link import TOKEN_CHARS, has_stop_link, preference_page, read, stop_page
from common.sms.sms_length import Length, Place, length, parts
from tests.support.builders import link_keys, now, subject, subject_keys

ADDED = " STOP au 36111"


def test_what_the_operator_adds_is_the_mention_and_counts() -> None:
    """14 characters behind each text, as Octopush does (DOMAIN 1.7)."""
    assert check(parse("a" * 146), "36111", ADDED) == Length("GSM7", 160, 1)
    assert check(parse("a" * 147), "36111", ADDED) == Length("GSM7", 161, 2)
    assert refused("a", "36111", ADDED) is None
    assert refused("a", "36112", ADDED) == TextProblem.STOP_MENTION_MISSING, "of another sender"
    assert refused(" ", "36111", ADDED) == TextProblem.EMPTY
    assert refused("a" * 1516, "36111", ADDED) is None
    assert refused("a" * 1517, "36111", ADDED) == TextProblem.TOO_LONG


@pytest.mark.parametrize(
    ("text", "encoding", "units", "segments"),
    [
        ("", "GSM7", 0, 1),
        ("a" * 160, "GSM7", 160, 1),
        ("a" * 161, "GSM7", 161, 2),
        ("a" * 306, "GSM7", 306, 2),
        ("a" * 307, "GSM7", 307, 3),
        ("€" * 80, "GSM7", 160, 1),
        ("€" * 81, "GSM7", 162, 2),
        ("a" * 152 + "€" + "a" * 151, "GSM7", 305, 2),
        ("a" * 152 + "€" + "a" * 152, "GSM7", 306, 3),  # the pair moves to part 2
        ("é" * 160, "GSM7", 160, 1),
        ("Ç" * 160, "GSM7", 160, 1),
        ("ê", "UCS2", 1, 1),
        ("ç", "UCS2", 1, 1),
        ("cœur", "UCS2", 4, 1),
        ("À bientôt", "UCS2", 9, 1),
        ("L’offre", "UCS2", 7, 1),
        ("10\u00a0%", "UCS2", 4, 1),
        ("ê" * 70, "UCS2", 70, 1),
        ("ê" * 71, "UCS2", 71, 2),
        ("😀" * 35, "UCS2", 70, 1),
        ("😀" * 36, "UCS2", 72, 2),
        ("a" * 66 + "😀" + "a" * 66, "UCS2", 134, 3),  # the pair moves
    ],
)
def test_the_golden_segments(text: str, encoding: str, units: int, segments: int) -> None:
    found = length(text)
    assert (found.encoding, found.units, found.segments) == (encoding, units, segments)
    assert len(parts(text)) == segments
    assert "".join(parts(text)) == text


def test_what_costs_two_units_moves_to_the_next_part_whole() -> None:
    assert parts("a" * 152 + "€" + "a" * 152) == ("a" * 152, "€" + "a" * 151, "a")
    assert parts("a" * 66 + "😀" + "a" * 66) == ("a" * 66, "😀" + "a" * 65, "a")


@pytest.mark.parametrize(
    ("source", "attributes", "text"),
    [
        ("Bonjour {first_name}", {"first_name": "Zoé"}, "Bonjour Zoé"),
        ("Bonjour {first_name|cher client}", {}, "Bonjour cher client"),
        ("Bonjour {first_name|cher client}", {"first_name": "  "}, "Bonjour cher client"),
        ("Bonjour{first_name|}", {}, "Bonjour"),
        ("{ville} {ville}", {"ville": "Nîmes"}, "Nîmes Nîmes"),
        ("{first_name}", {"first_name": " Anne\n Marie "}, "Anne Marie"),
        ("{{le code}}", {"first_name": "Zoé"}, "{le code}"),
        ("{{ {first_name} }}", {"first_name": "Zoé"}, "{ Zoé }"),
        ("-10 % ! {stop}", {}, "-10 % ! STOP au 36111"),
        ("un\r\ndeux", {}, "un\ndeux"),
        ("{2024_total}", {"2024_total": "12"}, "12"),
        ("{name}", {"name": "{stop}"}, "{stop}"),  # a contact's value is never read as a template
    ],
)
def test_a_text_is_written_for_one_contact(source: str, attributes: dict[str, str], text: str) -> None:
    assert parse(source).render(attributes, "36111") == text


def test_a_contact_without_a_required_field_is_known_before_writing_to_it() -> None:
    template = parse("{first_name}, {city|chez vous} {loyalty} {first_name} {stop}")
    assert template.required == ("first_name", "loyalty")
    assert template.missing({"first_name": "Zoé", "loyalty": " "}) == "loyalty"
    assert template.missing({"first_name": "Zoé", "loyalty": "or"}) is None
    with pytest.raises(KeyError):
        template.render({"loyalty": "or"}, "36111")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", TextProblem.EMPTY),
        (" \n ", TextProblem.EMPTY),
        ("Bonjour {first_name", TextProblem.BRACE_ALONE),
        ("Bonjour first_name}", TextProblem.BRACE_ALONE),
        ("Bonjour {First Name} {stop}", TextProblem.FIELD_NAME),
        ("Bonjour {} {stop}", TextProblem.FIELD_NAME),
        ("Bonjour {{ first_name }} {stop}", TextProblem.PLACEHOLDER),
        ("Bonjour {if vip}%FIRSTNAME%{end} {stop}", TextProblem.PLACEHOLDER),
        ("Bonjour", TextProblem.STOP_MENTION_MISSING),
        ("Bonjour STOP au 36112", TextProblem.STOP_MENTION_MISSING),  # somebody else's code
        ("Bonjour STOP", TextProblem.STOP_MENTION_MISSING),
        ("Bonjour 36111", TextProblem.STOP_MENTION_MISSING),
        ("Bonjour, pour ne plus rien recevoir : STOP, puis envoyez-le au 36111", TextProblem.STOP_MENTION_MISSING),
        ("a" * 1520 + " {stop}", TextProblem.TOO_LONG),
        ("ê" * 660 + " {stop}", TextProblem.TOO_LONG),
        ("a" * 2001, TextProblem.TOO_LONG),
    ],
)
def test_a_text_nobody_may_get_is_refused_with_its_reason(source: str, reason: TextProblem) -> None:
    with pytest.raises(TextRefused) as found:
        check(parse(source), "36111")
    assert found.value.reason is reason


@pytest.mark.parametrize("mention", ["{stop}", "STOP au 36111", "STOP 36111", "Stop SMS au 36111", "stop: 36111"])
def test_the_stop_mention_may_be_worded_in_several_ways(mention: str) -> None:
    assert check(parse(f"Maison Lune : -10 %. {mention}"), "36111").segments == 1


def test_the_stop_mention_counts_in_the_length() -> None:
    assert check(parse("a" * 146 + " {stop}"), "36111") == Length("GSM7", 160, 1)
    assert check(parse("a" * 147 + " {stop}"), "36111") == Length("GSM7", 161, 2)


def test_a_rendered_text_is_checked_again_because_a_value_may_spoil_it() -> None:
    template = parse("{first_name}{stop}")
    assert refused(template.render({"first_name": "Zoé, "}, "36111"), "36111") is None
    assert refused(template.render({"first_name": "Zoé"}, "36111"), "36111") is TextProblem.STOP_MENTION_MISSING
    long = parse("a" * 1400 + "{first_name} {stop}")
    assert refused(long.render({"first_name": "b" * 200}, "36111"), "36111") is TextProblem.TOO_LONG


def test_the_characters_that_halve_an_sms_are_pointed_at() -> None:
    source = "L’été à {city|Nîmes} : 10 € « cœur » 😀😀 {stop}"
    found = costly(source)
    assert [place.character for place in found] == ["’", "î", "«", "œ", "»", "😀", "😀"]
    assert [source[place.at - 1] for place in found] == [place.character for place in found]
    assert costly("Eté à {city} : 10 € {stop}") == ()
    assert costly("{if city = Nîmes}oui{end}{{if î}} {stop}") == (Place("î", 31),)


@pytest.mark.parametrize(
    ("source", "attributes", "text"),
    [
        ("{if vip}Or{else}Argent{end}", {"vip": "1"}, "Or"),
        ("{if vip}Or{else}Argent{end}", {"vip": "  "}, "Argent"),
        ("{if vip}Or{end}.", {}, "."),
        ("{if not vip}Argent{end}.", {}, "Argent."),
        ("{if not vip}Argent{end}.", {"vip": "1"}, "."),
        ("{if city = Nîmes}ici{else if city = Lyon}là{else}ailleurs{end}", {"city": " NÎMES "}, "ici"),
        ("{if city = Nîmes}ici{else if city = Lyon}là{else}ailleurs{end}", {"city": "Lyon"}, "là"),
        ("{if city = Nîmes}ici{else if city = Lyon}là{else}ailleurs{end}", {}, "ailleurs"),
        ("{if city=Le Mans}ici{end}!", {"city": "Le  Mans"}, "ici!"),
        ("{if city != Lyon}ailleurs{end}!", {"city": "Lyon"}, "!"),
        ("{if city != Lyon}ailleurs{end}!", {}, "ailleurs!"),
        ("{if points >= 100}cadeau{end}!", {"points": "100"}, "cadeau!"),
        ("{if points > 99,5}cadeau{end}!", {"points": "1 000"}, "cadeau!"),
        ("{if points < 100}bientôt{end}!", {"points": "beaucoup"}, "!"),
        ("{if points < 100}bientôt{end}!", {}, "!"),
        ("{if not}un{end}", {"not": "1"}, "un"),
        ("{if name}{name}{else}Bonjour{end} {name|toi}", {"name": "Zoé"}, "Zoé Zoé"),
        # as before there were conditions: these are fields
        ("{if} {else} {end}", {"if": "a", "else": "b", "end": "c"}, "a b c"),
        ("{if x}a{end} {end} {else}", {"x": "1", "end": "fin", "else": "sinon"}, "a fin sinon"),
    ],
)
def test_a_condition_chooses_what_is_written(source: str, attributes: dict[str, str], text: str) -> None:
    template = parse(source)
    assert template.missing(attributes) is None
    assert template.render(attributes, "36111") == text


@pytest.mark.parametrize(
    "source",
    [
        "{if vip}Or",
        "{if vip}{if city}a{end}{end}",
        "{if vip}a{else}b{else}c{end}",
        "{if vip}a{else}b{else if city}c{end}",
        "{if Vip}a{end}",
        "{if vip =}a{end}",
        "{if vip 3}a{end}",
        "{if not vip = 3}a{end}",
        "{if points > beaucoup}a{end}",
        "{if points > 1e999999999}a{end}",
        "{if stop}a{end}",
        "{if vip|or}a{end}",
        "{if vip}a{else if}b{end}",
    ],
)
def test_a_condition_that_says_nothing_is_refused_with_its_place(source: str) -> None:
    with pytest.raises(TextRefused, match="character") as found:
        parse(source)
    assert found.value.reason is TextProblem.CONDITION


def test_a_conditions_arm_needs_its_fields_only_where_it_is_written() -> None:
    template = parse("{first_name}{if vip}, {gift}{end} {stop}")
    assert (template.required, template.fields) == (("first_name",), ("first_name", "vip", "gift"))
    assert template.missing({"first_name": "Zoé"}) is None
    assert template.missing({"first_name": "Zoé", "vip": "1"}) == "gift"


def test_whatever_a_condition_says_the_text_tells_how_to_stop() -> None:
    assert check(parse("{if vip}Or{else if city}Lyon{else}Argent{end} {stop}"), "36111").segments == 1
    for source in (
        "{if vip}{stop}{end}",
        "{if vip}{stop}{else}-20 %{end}",
        "{if vip}a {stop}{else if city}b{end}",
        "{if vip}{stop}{else}-20 % sur tout le magasin{end}",  # the shortest is not the one that lacks it
        "{if vip}{stop}{else if city}-20 % sur tout le magasin{else}{stop}{end}",
    ):
        with pytest.raises(TextRefused) as found:
            check(parse(f"Maison Lune {source}"), "36111")
        assert found.value.reason is TextProblem.STOP_MENTION_MISSING


def test_what_a_text_costs_at_least_is_its_shortest_arm() -> None:
    source = "{if vip}" + "a" * 170 + "{else if city}" + "a" * 150 + "{else}" + "a" * 160 + "{end}{stop}"
    assert check(parse(source.replace("{stop}", " {stop}")), "36111") == Length("GSM7", 164, 2)


def test_a_preference_link_is_the_person_s_own_and_no_means_to_stop() -> None:
    page, at = stop_page("https://p.example", "lune"), now()
    spoken = wording("Lune : {preferences} {stop}", "fr", {}, "none", None, page)
    assert check(spoken.templates["fr"], "36111").units == len("Lune :  STOP au 36111") + len(page) + TOKEN_CHARS
    tokens = Tokens(link_keys, "cmp-1", subject(1), "lune", at)
    written = spoken.render({}, "36111", tokens)
    address = written.removeprefix("Lune : ").removesuffix(" STOP au 36111")
    assert address.startswith("https://p.example/m/lune/")
    token = address.removeprefix(preference_page(page))
    link = read(token, link_keys, "lune", "preference link")
    assert link is not None
    assert subject_keys.of_digits(link.person) == subject(1)
    assert read(token, link_keys, "lune") is None, "no stop link"
    assert not has_stop_link(page + token, page, link_keys, "lune", subject(1), at)
    assert tokens.made == {}, "stored nowhere"
    with pytest.raises(TextRefused) as alone:
        check(wording("Lune : {preferences}", "fr", {}, "none", None, page).templates["fr"], "36111")
    assert alone.value.reason == TextProblem.STOP_MENTION_MISSING
    with pytest.raises(TextRefused) as pageless:
        check(parse("Lune : {preferences} {stop}"), "36111")
    assert pageless.value.reason == TextProblem.STOP_PAGE_MISSING
    with pytest.raises(TextRefused):
        parse("{if preferences}Lune{end}")


PAGE = "https://p.example/s/lune/"


def test_a_stop_link_is_written_for_its_person_and_is_a_means_to_stop_by_itself() -> None:
    template = parse("-10 % {stop_link|never written}").with_stop_page(PAGE)
    assert (template.fields, template.required, template.links) == ((), (), ())
    assert check(template, "36111").units == len("-10 % ") + len(PAGE) + 37
    written = template.render({}, "36111", token=lambda of: {"stop_link": "x" * 37}[of])
    assert written == f"-10 % {PAGE}{'x' * 37}"
    assert refused(written, "36111", stop_page=PAGE) is None
    assert refused(written, "36111") is TextProblem.STOP_MENTION_MISSING, "of a sender without a page it is none"
    assert refused(f"-10 % {PAGE}", "36111", stop_page=PAGE) is TextProblem.STOP_MENTION_MISSING


@pytest.mark.parametrize(
    "source",
    [
        f"-10 % {{stop}} {PAGE}{'x' * 37}",
        "-10 % {stop} p.example/s/globex/x",
        "-10 % {stop} https://P.EXAMPLE/m/{first_name|x}",
        "{if vip}https://p.example/s/lune/{stop_link}{end} {stop}",
        "{stop} {link https://p.example/s/lune/x}",
    ],
)
def test_a_typed_address_of_a_stop_page_is_refused_since_it_is_one_persons(source: str) -> None:
    with pytest.raises(TextRefused) as caught:
        check(parse(source).with_stop_page(PAGE).with_links_on("lune.fr"), "36111", sender_page=PAGE)
    assert caught.value.reason is TextProblem.STOP_PAGE_TYPED
    check(parse("-10 % https://p.example/soldes {stop} {stop_link}").with_stop_page(PAGE), "36111", sender_page=PAGE)


@pytest.mark.parametrize(
    ("source", "page", "reason"),
    [
        ("-10 % {stop_link}", None, TextProblem.STOP_PAGE_MISSING),
        ("-10 % {stop} {stop_link}", None, TextProblem.STOP_PAGE_MISSING),
        ("-10 % {if vip}{stop_link}{end} {stop}", None, TextProblem.STOP_PAGE_MISSING),
        ("-10 % {if vip}{stop_link}{end}", PAGE, TextProblem.STOP_MENTION_MISSING),
        ("-10 % {if stop_link}oui{end} {stop}", PAGE, TextProblem.CONDITION),
    ],
)
def test_a_stop_link_that_is_not_in_every_text_or_leads_nowhere_is_refused(
    source: str, page: str | None, reason: TextProblem
) -> None:
    with pytest.raises(TextRefused) as caught:
        check(parse(source).with_stop_page(page), "36111")
    assert caught.value.reason is reason
