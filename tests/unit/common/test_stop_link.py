"""A personal stop link: signed for one sender and one person, with a last day, and found in a text only whole."""

from datetime import timedelta

import pytest

from common.keyring import LinkKeys
from common.privacy.stop_link import (
    PREFERENCES_VALID_FOR,
    TOKEN_CHARS,
    VALID_FOR,
    any_token,
    has_foreign_link,
    has_stop_link,
    is_over,
    names_stop_link,
    preference_page,
    read,
    stop_page,
    token,
)
from common.settings import KeyRingSettings
from tests.support.builders import link_keys, now, subject, subject_keys

PAGE = stop_page("https://p.example/", "acme")
NOW = now()
LINK = PAGE + token(link_keys, "acme", subject(1), NOW)
OTHER_KEYS = LinkKeys(KeyRingSettings.model_validate({"current": "t1", "keys": {"t1": "b" * 43 + "="}}), subject_keys)


def has(text: str, page: str | None = PAGE, sender: str = "acme", person: int = 1, days: int = 0) -> bool:
    return has_stop_link(text, page, link_keys, sender, subject(person), NOW + timedelta(days=days))


def test_a_link_is_of_one_sender_and_one_person_and_has_a_last_day() -> None:
    written = token(link_keys, "acme", subject(1), NOW)
    link = read(written, link_keys, "acme")
    assert link is not None
    assert subject_keys.of_digits(link.person) == subject(1)
    assert not is_over(link, NOW + VALID_FOR)
    assert is_over(link, NOW + VALID_FOR + timedelta(days=1))
    assert len(written) == len(any_token()) == TOKEN_CHARS
    assert written.isalnum()
    assert read(written, link_keys, "acme2") is None
    assert read(written, OTHER_KEYS, "acme") is None
    assert written != token(link_keys, "acme", subject(2), NOW)


@pytest.mark.parametrize("place", range(TOKEN_CHARS))
def test_a_token_with_one_other_character_is_none(place: int) -> None:
    written = token(link_keys, "acme", subject(1), NOW)
    altered = written[:place] + ("1" if written[place] == "0" else "0") + written[place + 1 :]
    assert read(altered, link_keys, "acme") is None


@pytest.mark.parametrize("written", ["", "x" * 36, "z" * 37, "é" * 37, "0" * 38, "0" * 36 + "-"])
def test_what_no_bytes_write_is_no_token(written: str) -> None:
    assert read(written, link_keys, "acme") is None


def test_a_text_has_the_link_only_whole_on_the_page_of_its_sender_and_for_its_person() -> None:
    for text in (LINK, f"Stop: {LINK}", f"({LINK})", f"{LINK}.", f"{PAGE}x {LINK} fin", f"Stop :\u00a0{LINK}\nfin"):
        assert has(text), text
        assert names_stop_link(text, PAGE), text
    others = (
        "",
        LINK[:-1],
        f"{LINK}x",
        f"{LINK}/",
        f"https://other.example/?to={LINK}",
        f"x{LINK}",
        f"{LINK}.info",
        f"{LINK}:80",
        f"{LINK}..",
        f"evil.com:{LINK}",
        f"Stop:{LINK}",
        f"\u200b{LINK}",
        f"{LINK}\u200bx",
        f"{LINK}é",
        LINK.replace("https", "http"),
        LINK.replace("p.example", "q.example"),
    )
    for text in others:
        assert not has(text), text
        assert not names_stop_link(text, PAGE), text
    assert not has(PAGE + any_token())
    assert not has(LINK, person=2)
    assert not has(LINK, sender="acme2")
    assert not has(LINK, page=None)
    assert not has(LINK, page="")
    assert has(LINK, days=VALID_FOR.days)
    assert not has(LINK, days=VALID_FOR.days + 1)


OTHER = PAGE + token(link_keys, "acme", subject(2), NOW)
PREFERENCES = preference_page(PAGE) + token(link_keys, "acme", subject(1), NOW, "preference link")


def foreign(text: str, days: int = 0) -> bool:
    return has_foreign_link(text, PAGE, link_keys, "acme", subject(1), NOW + timedelta(days=days))


def test_a_link_of_another_person_sender_or_kind_is_found_however_it_is_written() -> None:
    for text in ("", LINK, f"{LINK} {PREFERENCES}.", f"({LINK}),{LINK}", "https://p.example/shop", "p.example"):
        assert not foreign(text), text
    globex = stop_page("https://p.example", "globex") + token(link_keys, "globex", subject(1), NOW)
    bare = OTHER.removeprefix("https://p.example")
    for text in (
        OTHER,
        f"{LINK} {OTHER}",
        f"{LINK},{OTHER}",
        globex,
        PAGE,
        PAGE + any_token(),
        preference_page(PAGE) + token(link_keys, "acme", subject(2), NOW, "preference link"),
        preference_page(PAGE) + LINK.removeprefix(PAGE),
        f"p.example{bare}",
        f"HTTPS://P.EXAMPLE{bare}",
        f"https://p.example:443{bare}",
        f"https://ｐ.example{bare}",
        f"https://p.\u200bexample{bare}",
        f"https://p.example/x/..{bare}",
        f"https://p.example{bare.replace('/s/', '/%73/')}",
    ):
        assert foreign(text), text
    assert foreign(LINK, days=VALID_FOR.days + 1)
    assert foreign(PREFERENCES, days=PREFERENCES_VALID_FOR.days + 1)
    assert not has_foreign_link(OTHER, None, link_keys, "acme", subject(1), NOW), "no page is configured"
    assert has_foreign_link(LINK, PAGE, None, "acme", subject(1), NOW), "without keys no link is anybody's"


def test_a_preference_link_is_of_another_kind_lasts_a_month_and_stands_beside_the_stop_page() -> None:
    written = token(link_keys, "acme", subject(1), NOW, "preference link")
    assert read(written, link_keys, "acme") is None
    assert read(LINK.removeprefix(PAGE), link_keys, "acme", "preference link") is None
    link = read(written, link_keys, "acme", "preference link")
    assert link is not None
    assert not is_over(link, NOW + PREFERENCES_VALID_FOR)
    assert is_over(link, NOW + PREFERENCES_VALID_FOR + timedelta(days=1))
    assert preference_page(PAGE) == "https://p.example/m/acme/"
    assert preference_page(stop_page("https://p.example/s", "s")) == "https://p.example/s/m/s/"
