"""A tracked link: what a target may be, what a token is, and what it adds to a text."""

import base64

import pytest

from campaign.message import short_link
from campaign.message.short_link import any_token, host_of, is_host, is_ours, token, url
from campaign.message.text import Link, TextProblem, TextRefused, check, costly, parse
from campaign.preflight import findings
from common.keyring import LinkKeys
from common.settings import KeyRingSettings
from common.sms.sms_length import length
from tests.support.builders import link_keys, subject, subject_keys
from tests.support.running import KEY_RING

TARGET = "https://maison-lune.example/soldes?a=1&b=[2]#c"


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (TARGET, "maison-lune.example"),
        ("https://Maison-Lune.Example", "maison-lune.example"),
        ("https://maison-lune.example:8443/", "maison-lune.example"),
        ("https://xn--mnchen-3ya.example/", "xn--mnchen-3ya.example"),
        ("http://maison-lune.example/", None),  # seen and changed on the way
        ("//maison-lune.example/", None),
        ("javascript:alert(1)", None),
        ("https://maison-lune.example@evil.example/", None),
        ("https://maison-lune.example\\@evil.example/", None),
        ("https://evil.example\\.maison-lune.example/", None),
        ("https://127.0.0.1/", None),
        ("https://localhost/", None),
        ("https://maison-lune.example/\r\nSet-Cookie: a=b", None),
        ("https://maison-lune.example/soldes d'été", None),
        ("https://münchen.example/", None),
        (f"https://maison-lune.example/{'a' * 500}", None),
    ],
)
def test_a_target_is_an_https_address_of_a_named_host(target: str, host: str | None) -> None:
    assert host_of(target) == host


def test_a_host_is_a_name_in_small_letters() -> None:
    assert is_host("m.maison-lune.example")
    assert is_host(f"{'a' * 51}.example")  # 59: what it costs is known beforehand, and is not most of an SMS
    assert not is_host(f"{'a' * 53}.example")
    for other in ("maison-lune", "M.example", "m.example/l", "m.example:443", "1.2.3.4", "m..example", "", "é.example"):
        assert not is_host(other), other


def test_a_token_is_of_one_campaign_person_target_and_key() -> None:
    of = ("c1", subject(1), TARGET)
    made = token(link_keys, *of)
    assert short_link.TOKEN.fullmatch(made)
    assert made == token(link_keys, *of)
    assert is_ours(made, link_keys, *of)
    others = [
        ("c2", *of[1:]),
        ("c1", subject(2), TARGET),
        ("c1", subject(1), TARGET + "d"),
        (f"c1{subject(1)}", subject(3), TARGET),
    ]
    for other in others:
        assert token(link_keys, *other) != made
        assert not is_ours(made, link_keys, *other)
    new = base64.b64encode(b"n" * 32).decode()
    keys = {"n1": new, KEY_RING["current"]: base64.b64encode(b"t" * 32).decode()}
    rotated = LinkKeys(KeyRingSettings.model_validate({"current": "n1", "keys": keys}), subject_keys)
    assert token(rotated, *of) != made
    assert is_ours(made, rotated, *of)  # a rotation breaks no link


def test_a_token_is_as_long_as_the_one_that_was_counted() -> None:
    for n in range(200):
        assert len(token(link_keys, "c1", subject(n), TARGET)) == len(any_token(TARGET)) == short_link.TOKEN_CHARS
    assert length(url("m.example", any_token(TARGET))).units == len("https://m.example/l/") + 12


def test_a_text_marks_its_links_and_says_the_short_ones() -> None:
    template = parse("{if vip}{link https://a.example/vip}{else}{ link https://a.example/ }{end} {link |rien} {stop}")
    assert [link.target for link in template.links] == ["https://a.example/vip", "https://a.example/"]
    assert template.fields == ("vip", "link")  # a field of that name is one, as before there were links
    on = template.with_links_on("m.example")
    written = on.render({"vip": "oui"}, "36111", token=lambda target: target[-3:])
    assert written == "https://m.example/l/vip rien STOP au 36111"
    assert on.sample("36111") == "https://m.example/l/xxxxxxxxxxxx rien STOP au 36111"
    assert on.links == tuple(Link(link.target, "m.example") for link in template.links)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{link http://a.example} {stop}", TextProblem.LINK),
        ("{link soldes} {stop}", TextProblem.LINK),
        ("{link https://a.example/{name}} {stop}", TextProblem.BRACE_ALONE),  # nothing of a person in a URL
        ("".join(f"{{link https://a.example/{n}}} " for n in range(6)) + "{stop}", TextProblem.LINK),
        ("{link https://a.example} {stop}", TextProblem.LINK_HOST_MISSING),
    ],
)
def test_what_is_no_link_is_said(source: str, problem: TextProblem) -> None:
    with pytest.raises(TextRefused) as refused:
        check(parse(source), "36111")
    assert refused.value.reason is problem


def test_where_a_link_leads_costs_nothing_and_may_be_no_public_shortener() -> None:
    assert not costly("{link https://a.example/~`} ")
    rules = findings.load()
    found = findings.of_targets(["https://www.bit.ly/a", "https://bit.ly/b", "https://a.example/bit.ly/"], rules)
    assert [f.id for f in found] == ["public_shortener:www.bit.ly", "public_shortener:bit.ly"]
