"""Nothing that is committed names a machine, a package index, or somebody's phone, or is a merge left half done."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home)/\w")
PACKAGE_INDEX = re.compile(
    r"(?<!no-emit-)index[-_]url|pypi\.(?:org|[a-z]+)/|pythonhosted|/simple/?(?:\s|$)", re.IGNORECASE
)
UNMERGED = re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE)
PHONE = re.compile(
    r"(?<![\w.+-])(?:\+|00)[1-9](?:[ .\-()]{0,2}\d){7,14}(?!\w)"  # international
    r"|(?<![\w.+-])0[1-9](?:[ .\-]?\d\d){4}(?![\w-])"  # French national
)
NOBODYS = re.compile(
    r"(?:00)?(?:33)?0?(?:63998|19900|26191|35301|46571|53649)\d{4}$"  # ARCEP's ranges for fiction, decision 2018-0881
    r"|1[2-9]\d\d55501\d\d$"  # NANP's: 555-0100 to 555-0199
    r"|4917139200\d\d$"  # the Bundesnetzagentur's, for film and television
    r"|0?(?:33)?123456789$"  # counting
    r"|15005550006$"  # Twilio's own test number
)
# Whole numbering plans: vectors of DOMAIN 6, and operators' bodies with their source beside them.
VECTORS = (
    "libs/common/src/common/sms/msisdn.py",
    "tests/operators/",
    "tests/property/test_msisdn_properties.py",
    "tests/unit/common/test_law.py",
    "tests/unit/common/test_msisdn.py",
    "tests/unit/inbound/test_twilio.py",
)
KNOWN = {
    ("tests/service/inbound/test_webhooks.py", "+262639000000"),  # a number of Mayotte that is not assigned
}


def committed() -> Iterator[tuple[str, str]]:
    """(path, text) of every text file that git holds, as it is in the tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.is_file():
            content = path.read_bytes()
            if b"\0" not in content:
                yield name, content.decode()


TEXTS = {name: text for name, text in committed() if ROOT / name != Path(__file__)}


def _found(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0].strip()}"
        for name, text in TEXTS.items()
        for match in pattern.finditer(text)
    ]


def test_no_merge_is_left_half_done() -> None:
    assert _found(UNMERGED) == []


def test_there_is_something_to_look_at() -> None:
    assert len(TEXTS) > 100


def test_no_committed_file_names_a_path_of_one_machine() -> None:
    assert _found(MACHINE_PATH) == []


def test_no_committed_file_names_a_package_index() -> None:
    assert _found(PACKAGE_INDEX) == []


def test_no_committed_file_holds_a_number_that_may_be_somebodys() -> None:
    somebodys = [
        f"{name}: {match[0]}"
        for name, text in TEXTS.items()
        if not name.startswith(VECTORS)
        for match in PHONE.finditer(text)
        if not _nobodys(match[0]) and (name, match[0]) not in KNOWN
    ]
    assert somebodys == []


def _nobodys(spelled: str) -> bool:
    return bool(NOBODYS.match(re.sub(r"\D", "", spelled.replace("(0)", ""))))


@pytest.mark.parametrize(
    "spelled", ["+33 6 {} 34 56 78", "06.{}.34.56.78", "06 {} 34 56 78", "0033 (0)6 {} 34 56 78", "+336{}345678"]
)
def test_the_look_finds_a_number(spelled: str) -> None:
    match = PHONE.search(f"call {spelled.format(12)} now")
    assert match is not None
    assert not _nobodys(match[0])


@pytest.mark.parametrize("spelled", ["06 39 98 {}", "+33 (0)6.39.98.{}", "003363998{}", "+1 202 555 01{}"])
def test_numbers_that_are_nobodys_are_welcome(spelled: str) -> None:
    match = PHONE.search(f"call {spelled.format('12 34' if '01{' not in spelled else '23')} now")
    assert match is not None
    assert _nobodys(match[0])
