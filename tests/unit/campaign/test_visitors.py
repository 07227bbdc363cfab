"""Who follows a link: a person, or a machine. In doubt a machine: a click prolongs how long data are kept."""

import pytest

from campaign.links.visitors import is_person

PHONE = (
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0"
    " Mobile Safari/537.36"
)
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5"
    " Mobile/15E148 Safari/604.1"
)
CUBOT = "Mozilla/5.0 (Linux; Android 10; CUBOT X30) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/90.0 Safari/537.36"
OPENED = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize("agent", [PHONE, IPHONE, CUBOT])
def test_a_browser_that_opens_a_page_is_a_person(agent: str) -> None:
    assert is_person("GET", {"user-agent": agent})
    assert is_person("GET", {"user-agent": agent, **OPENED})
    assert not is_person("HEAD", {"user-agent": agent, **OPENED})


@pytest.mark.parametrize(
    "agent",
    [
        "",
        "curl/8.5.0",
        "python-requests/2.32.3",
        "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
        f"{PHONE} (compatible; AdsBot-Google-Mobile)",
        "WhatsApp/2.23.20.0",
        "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_11_1) AppleWebKit/601.2.4 (KHTML, like Gecko) Version/9.0.1"
        " Safari/601.2.4 facebookexternalhit/1.1 Facebot Twitterbot/1.0",
        "Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5",
        "Mozilla/5.0 (X11; Linux x86_64) HeadlessChrome/126.0",
        "TelegramBot (like TwitterBot)",
    ],
)
def test_what_names_itself_is_a_machine(agent: str) -> None:
    assert not is_person("GET", {"user-agent": agent, **OPENED})


@pytest.mark.parametrize(
    "more",
    [
        {"sec-purpose": "prefetch;prerender"},
        {"purpose": "prefetch"},
        {"x-purpose": "preview"},
        {"x-moz": "prefetch"},
        {"sec-fetch-mode": "no-cors"},
        {"sec-fetch-dest": "image"},
    ],
)
def test_what_is_looked_at_ahead_is_not_opened(more: dict[str, str]) -> None:
    assert not is_person("GET", {"user-agent": PHONE, **OPENED, **more})
