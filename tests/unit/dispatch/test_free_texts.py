"""Which signs in a free text a caller may override: those that a second person may approve in a template."""

import pytest

from common.texts.findings import findings_of
from dispatch.accepting.rules import Kind, TextRefused, Written, written_freely


def test_an_override_covers_what_a_person_may_approve() -> None:
    text = "Votre échange gratuit est prêt."
    with pytest.raises(TextRefused):
        written_freely(text, findings_of(text), override=False)
    assert written_freely(text, findings_of(text), override=True) == Written(text, tuple(findings_of(text)))


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ("envoyez OUI au 81234", "premium_short_code"),
        ("STOP au 36111", "stop_mention"),
        ("https://lune.fr@evil.com", "disguised_link"),
        ("\u202eomorp", "reading_direction"),
    ],
)
def test_no_override_covers_what_no_person_may_approve(words: str, rule: str) -> None:
    text = f"Votre échange gratuit : {words}"
    with pytest.raises(TextRefused) as refused:
        written_freely(text, findings_of(text), override=True)
    assert (refused.value.kind, [each.reason for each in refused.value.against]) == (Kind.ADVERTISING, [rule])
