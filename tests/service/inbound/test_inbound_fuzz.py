"""inbound-svc under requests that nobody would send: forged, and signed as each provider signs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from msgspec import structs

from inbound.providers import PROVIDERS, Callback, Kind
from tests.operators.cases import CASES, callback
from tests.operators.signing import SCHEMES, SECRET, Scheme
from tests.property.test_providers_fuzz import HEADERS, KINDS, RAW
from tests.service.inbound.test_every_provider import ACCOUNTS
from tests.support.builders import now, number
from tests.support.fuzzing import (
    FUZZ_SECONDS,
    LOADED_S,
    PROBLEM,
    Asked,
    Check,
    everything_described,
    fuzz,
    fuzzed,
    odd_targets,
)
from tests.support.running import Surroundings, bearer

pytestmark = pytest.mark.any_broker  # the same requests, and what is answered, whatever is behind

PATH_SECRET = "secret-of-the-path"
ALL_ACCOUNTS = [*ACCOUNTS, {"provider": "cm", "account": "path", "path_secrets": [PATH_SECRET]}]
PATHS = [
    *(f"/v1/callbacks/{each['provider']}/{each['account']}/{kind}" for each in ACCOUNTS for kind in KINDS),
    *(f"/v1/callbacks/cm/path/{PATH_SECRET}/{kind}" for kind in KINDS),
    "/v1/callbacks/twilio/main/x/messages",
    "/v1/reviews",
    "/v1/reviews/x/decision",
    "/readyz",
]


@st.composite
def signed(draw: st.DrawFn) -> Asked:
    """A callback of any body to any target, as the scheme's provider would sign it."""
    scheme: Scheme = draw(st.sampled_from(SCHEMES))
    kind: Kind = draw(st.sampled_from(KINDS))
    plain = f"/v1/callbacks/{scheme.provider}/signed/{kind}"
    target = draw(st.just(plain.encode()) | odd_targets([plain]))
    raw = draw(RAW | st.sampled_from([callback(case).body for case in CASES if case.provider == scheme.provider]))
    headers: Mapping[str, str] = draw(HEADERS)
    try:
        made = scheme.sign(SECRET, raw, now(), draw(st.uuids()).hex, target.decode("latin-1"))
    except ValueError:  # what is signed must be a text
        made = Callback(target.decode("latin-1"), {}, raw)
    return _asked(structs.replace(made, headers={**headers, **made.headers}), target)


@st.composite
def fenced(draw: st.DrawFn) -> Asked:
    """A callback of a provider that signs nothing, changed: it is believed because of where it comes from."""
    case = draw(st.sampled_from([case for case in CASES if PROVIDERS[case.provider].signing != "always"]))
    plain = callback(case)
    raw = draw(st.just(plain.body) | RAW)
    target = plain.target.encode("latin-1", "replace")
    if plain.method == "GET" and draw(st.booleans()):
        target = target.partition(b"?")[0] + b"?" + bytes(b for b in draw(RAW) if b > 32)
    return _asked(structs.replace(plain, body=raw, headers={**draw(HEADERS), **plain.headers}), target)


def _asked(made: Callback, target: bytes) -> Asked:
    headers = {name: value for name, value in made.headers.items() if "\n" not in value and "\r" not in value}
    return Asked(made.method, target, headers, b"" if made.method == "GET" else made.body)


@st.composite
def anything(draw: st.DrawFn) -> Asked:
    headers = {**bearer(), "content-type": "application/json", **draw(HEADERS)}
    made = Callback("", headers, draw(RAW), method=draw(st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS"])))
    return _asked(made, draw(odd_targets(PATHS)))


@pytest.mark.timeout(FUZZ_SECONDS + LOADED_S)
async def test_whatever_comes_to_inbound_it_has_an_answer(surroundings: Surroundings, tmp_path: Path) -> None:
    more: dict[str, Any] = {"provider_accounts": ALL_ACCOUNTS, "publish_timeout_s": 30.0}
    async with fuzzed(surroundings, "inbound", tmp_path, **more) as inbound:
        known = {
            "provider": sorted(PROVIDERS),
            "account": ["main", "signed", "path"],
            "secret": [PATH_SECRET],
            "number": [number(1)],
        }

        def ask(asked: Asked) -> None:
            told = inbound.ask(asked)
            assert told.status < 400 or told.media_type in (PROBLEM, "text/plain"), told

        await fuzz(
            "inbound-svc",
            inbound,
            Check(signed(), ask, 60),
            Check(fenced(), ask, 60),
            Check(anything(), ask, 60),
            *everything_described(inbound, bearer(), known, 3),
        )
        assert inbound.told[200] + inbound.told[204], "nothing was ever believed: nothing was tested"
