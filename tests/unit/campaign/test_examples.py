"""The examples in the repository are what the README says of them."""

import runpy
from collections import Counter
from pathlib import Path

import pytest

from campaign.audience.contacts_file import Reading, check
from campaign.message import text
from common.sms.sms_length import length

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_the_contacts_are_10_000_lines_of_which_9800_can_be_texted() -> None:
    body = [(EXAMPLES / "contacts.csv").read_bytes()]
    chunks = list(Reading(body, check(body), {}, fictional=True).chunks())
    numbers = [e164 for chunk in chunks for e164 in chunk.e164s]
    refused = Counter(refusal.reason for chunk in chunks for refusal in chunk.refusals)
    assert len(numbers) + refused.total() == 10_000
    assert len(set(numbers)) == 9_800
    assert refused == {"not_mobile": 40, "too_short": 40, "not_a_number": 30, "empty": 30, "short_code": 30}
    assert all(number.startswith("+3363998") for number in numbers)


def test_the_contacts_are_what_the_script_writes(tmp_path: Path) -> None:
    script = tmp_path / "make_contacts.py"
    script.write_bytes((EXAMPLES / "make_contacts.py").read_bytes())
    runpy.run_path(str(script), run_name="__main__")
    assert (tmp_path / "contacts.csv").read_bytes() == (EXAMPLES / "contacts.csv").read_bytes()


@pytest.mark.parametrize("attributes", [{"first_name": "Benoît", "city": "Bourg-en-Bresse"}, {}])
def test_the_campaign_text_is_one_sms_of_gsm_7_but_for_the_names_in_it(attributes: dict[str, str]) -> None:
    source = (EXAMPLES / "campaign.fr.txt").read_text(encoding="utf-8")
    template = text.parse(source)
    assert text.costly(source) == ()
    assert text.check(template, "36111").segments == 1
    rendered = template.render(attributes, "36111")
    assert "Maison Lune" in rendered
    assert text.refused(rendered, "36111") is None
    assert length(rendered).segments <= 2
