"""No committed file holds a secret: a private key, a key of a cloud or a forge, or a value of random characters."""

import math
import re
from collections import Counter

import pytest

from tests.contract.test_committed_text import TEXTS

SHAPES = re.compile(
    r"-----BEGIN (?:RSA |EC |OPENSSH |PGP )?PRIVATE KEY"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # Amazon
    r"|\bgh[pousr]_[A-Za-z0-9]{36}"  # GitHub
    r"|\bglpat-[\w-]{20}"  # GitLab
    r"|\bxox[abprs]-[\w-]{10,}"  # Slack
    r"|\bAIza[\w-]{35}"  # Google
    r"|\bsk_live_\w{16,}"  # Stripe
    r"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}"  # a signed token
)
NAMED = re.compile(
    r"(?i)(?:secret|token|passw(?:or)?d|api_?key|private_?key|auth_?key)\w*[\"']?\s*[:=]\s*[\"']?([\w+/=-]{24,})"
)
MIXED = re.compile(r"(?=.*\d)(?=.*[a-zA-Z])")
RANDOM_BITS = 3.8  # per character; words have less
# Keys of development, public on purpose: their files say so first. Vectors of operators have their source.
PUBLIC = (
    "deploy/compose/secrets/",
    "tests/operators/",
    "tests/unit/inbound/",
    "requirements/",
    "tests/contract/openapi/package-lock.json",
    "tests/support/operators/node/package-lock.json",
)
EXAMPLES = frozenset(
    (
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",  # of the specification of Standard Webhooks
        "an-example-of-32-bytes-for-docs",
    )
)


def bits(text: str) -> float:
    """Return Shannon's entropy of the characters."""
    return -sum(many / len(text) * math.log2(many / len(text)) for many in Counter(text).values())


def secrets_in(text: str) -> list[str]:
    """Return the beginning of each text that looks like a secret."""
    found = [match[0][:20] for match in SHAPES.finditer(text)]
    named = (match for match in NAMED.finditer(text) if match[1] not in EXAMPLES and MIXED.match(match[1]))
    return found + [match[0][:40] for match in named if bits(match[1]) > RANDOM_BITS]


def test_no_committed_file_holds_a_secret() -> None:
    found = {name: secrets_in(text) for name, text in TEXTS.items() if not name.startswith(PUBLIC)}
    assert {name: each for name, each in found.items() if each} == {}


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN " + "EC PRIVATE KEY-----",
        "AKIA" + "IOSFODNN7EXAMPLE",
        "ghp_" + "a1B2" * 9,
        "token = " + '"Zm9vYmFyYmF6cXV4Zm9vYmFy' + 'YmF6cXV4MTIzNDU2Nzg5"',
        "PLACET_AUTH_KEY: " + "q8Zr1tYw3Ex6uVb9Nm2Pk5Ls7" + "Dg4Hj0F",
    ],
)
def test_the_look_finds_a_secret(text: str) -> None:
    assert secrets_in(text)


@pytest.mark.parametrize("text", ["token = make_a_token_for_the_tests_of_today", "secret: a secret of the simulator"])
def test_words_are_no_secret(text: str) -> None:
    assert secrets_in(text) == []
