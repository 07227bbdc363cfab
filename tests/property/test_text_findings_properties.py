"""No disguise of a word hides the word, wherever in a text the word stands."""

from collections.abc import Callable
from dataclasses import dataclass
from time import process_time
from urllib.parse import urlsplit

from hypothesis import example, given
from hypothesis import strategies as st

from common.texts import template
from common.texts.findings import findings_of, load, top_level_domains
from common.texts.look_alikes import LETTERS
from common.texts.reading import read

WORDS = [word for word in load().words.listed if len(word) > 4]
INVISIBLE = ["\u200b", "\u200d", "\u2060", "\ufe0f", "\u0301", "\u00ad"]
BETWEEN = ["", "", " ", ".", "-", "_", "·", "  ", "\n"]
ORDINARY = st.sampled_from(["Bonjour Zoé", "votre colis est là", "à demain", "Maison Lune", "merci 12", ""])


@st.composite
def disguised(draw: st.DrawFn) -> tuple[str, str]:
    """A word of advertising, and a writing of it that a person can read."""
    word = draw(st.sampled_from(WORDS))
    between = draw(st.sampled_from(BETWEEN))
    written = []
    for letter in word:
        if letter == " ":
            continue
        ways = [
            letter,
            letter.upper(),
            chr(ord(letter) + 0xFEE0),
            *(drawn for drawn, plain in LETTERS.items() if plain == letter),
        ]
        written.append(draw(st.sampled_from(ways)) + draw(st.sampled_from(["", "", *INVISIBLE])))
    return word, between.join(written)


@given(disguised(), ORDINARY, ORDINARY)
def test_a_disguised_word_is_found_at_its_place(written: tuple[str, str], before: str, after: str) -> None:
    word, shown = written
    text = f"{before}, {shown}, {after}"
    place = len(before) + 2
    found = [f for f in findings_of(text) if f.rule == "advertising" and f.span is not None]
    assert any(f.span and f.span[0] < place + len(shown) and place < f.span[1] for f in found), (word, text)


@given(st.text(max_size=200))
def test_any_text_is_read_and_each_span_is_of_the_text(text: str) -> None:
    reading = read(text)
    assert len(reading.plain) == len(reading.places)
    for finding in findings_of(text):
        assert finding.span is not None
        start, end = finding.span
        assert 0 <= start < end <= len(text)


@dataclass(frozen=True)
class Field:
    name: str
    max_chars: int = 160
    links: bool = True
    prices: bool = True


@given(disguised(), st.data())
def test_a_word_split_between_values_and_text_is_refused_or_seen_by_the_approver(
    written: tuple[str, str], data: st.DataObject
) -> None:
    _, shown = written
    first, second = sorted(data.draw(st.tuples(*[st.integers(0, len(shown))] * 2)))
    before, inside, after = shown[:first], shown[first:second], shown[second:]
    if not any(char.isalpha() for char in inside):
        return
    text = f"Maison Lune, {before}{{value}}{after} demain"
    rendered = template.render(text, {"value": inside})
    refused = template.refused_findings(rendered, [Field("value")])
    assert template.own_findings(text, []) or any(names == ["value"] for _, names in refused)


@given(st.sampled_from(["https://", "http://", "www."]), st.text("lune.fr@:/?#é\u0301 \\-", min_size=1, max_size=12))
@example("https://", "@evil.com/x")
@example("www.", ".evil.com/x")
def test_no_value_changes_the_host_of_the_text_s_link_without_a_permission(scheme: str, value: str) -> None:
    def host(text: str) -> str:
        return urlsplit("//" + text.split()[1].removeprefix("https://").removeprefix("http://")).netloc

    text = f"suivi {scheme}lune.fr{{value}}"
    rendered = template.render(text, {"value": value})
    if host(rendered.text) != host(f"suivi {scheme}lune.fr"):
        assert template.refused_findings(rendered, [Field("value", links=False)])


DOMAINS = sorted(name for name in top_level_domains() if name.isascii())
HOSTS = st.from_regex(r"[a-z0-9é]([a-z0-9é-]{0,8}[a-z0-9é])?", fullmatch=True) | st.sampled_from(["луна", "月", "a.b"])


@given(
    HOSTS,
    st.sampled_from(DOMAINS),
    st.booleans(),
    st.sampled_from([str, str.upper, str.title]),
    st.sampled_from(["", "4821 ", "..."]),
    st.sampled_from(["", ".", ".x", ".1", "-x", ".x/abc", ".x-y.12", "@x", "/x", ":80"]),
)
@example("evil", "win", True, str, "", ".x")
@example("x", "win", True, str.title, "", "")
def test_no_value_is_a_link_without_a_permission(
    host: str, domain: str, in_ascii: bool, written: Callable[[str], str], before: str, after: str
) -> None:
    if domain.startswith("xn--") and not in_ascii:
        domain = domain[4:].encode().decode("punycode")
    value = before + written(f"{host}.{domain}") + after
    rendered = template.render("Maison Lune : votre commande {value}", {"value": value})
    found = [finding.rule for finding, _ in template.refused_findings(rendered, [Field("value", links=False)])]
    assert {"link", "disguised_link"} & {*found}, value


@given(
    st.sampled_from(["lune.fr", "Lune.fr", "evil.com", "x.lune.fr", "LUNE.FR", "lune.fr-x", "lune.fr.x", "a-b.co.uk"]),
    st.sampled_from([*sorted(load().names), "bonne", "merci"]),
    st.sampled_from([" journée", ".", "-Bonne", ""]),
)
@example("lune.fr", "it", "")
def test_a_host_stays_a_link_before_a_word_with_a_capital(host: str, word: str, after: str) -> None:
    text = f"Maison Lune : votre colis, {host}.{word.title()}{after}"
    assert "link" in [finding.rule for finding in findings_of(text)], text


@given(st.text("014578$!@€9", max_size=1530))
def test_a_text_of_characters_that_look_like_several_letters_takes_no_longer(text: str) -> None:
    begun = process_time()
    findings_of(text)
    assert process_time() - begun < 2  # two hundred times what is usual
