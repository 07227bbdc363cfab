"""What is cited as `DOMAIN 1.5` is section 1.5 of docs/domain.md, and a link into that page leads to a section."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "domain.md").read_text()
HEADING = re.compile(r"^#{2,3} (.+)$", re.MULTILINE)
NUMBER = re.compile(r"\d+(?:\.\d+)?")
# "DOMAIN 1.9", "DOMAIN 1.9 (hours), 6.3 (zones)", "4.1 and 4.4": also over the end of a line
CITED = re.compile(r"\bDOMAIN[\s#*]+(\d+(?:\.\d+)?(?:(?: \([^)]*\))?(?:,| and|, and)[\s#*]+\d+\.\d+\b)*)")
LINK = re.compile(r"domain\.md#([\w-]+)")
PLACES = ("libs", "services", "stack", "docs", "tests", "bench", "chaos", "deploy", "*.md")


def texts() -> dict[str, str]:
    listed = subprocess.run(["git", "ls-files", "-z", *PLACES], cwd=ROOT, check=True, capture_output=True).stdout
    paths = [name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]
    return {name: (ROOT / name).read_text(errors="replace") for name in paths if ROOT / name != Path(__file__)}


TEXTS = texts()


def sections(page: str) -> set[str]:
    return {found[0] for heading in HEADING.findall(page) if (found := NUMBER.match(heading))}


def cited(text: str) -> set[str]:
    return {number for found in CITED.findall(text) for number in NUMBER.findall(re.sub(r"\([^)]*\)", "", found))}


def test_every_section_that_is_cited_is_in_the_page() -> None:
    by_name = {name: cited(text) for name, text in TEXTS.items()}
    assert sum(map(len, by_name.values())) > 100
    assert {name: lacks for name, numbers in by_name.items() if (lacks := numbers - sections(PAGE))} == {}


def test_no_section_is_there_twice_and_they_are_in_order() -> None:
    numbers = [found[0] for heading in HEADING.findall(PAGE) if (found := NUMBER.match(heading))]
    order = [tuple(map(int, number.split("."))) for number in numbers]
    assert order == sorted(set(order))


def test_a_link_into_the_page_leads_to_a_section() -> None:
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(PAGE)}
    linked = {(name, anchor) for name, text in TEXTS.items() for anchor in LINK.findall(text)}
    assert linked
    assert {link for link in linked if link[1] not in anchors} == set()


def test_citations_are_found_however_they_are_written() -> None:
    assert cited("(DOMAIN 1.9, 8.1, 8.2), and within 08:00") == {"1.9", "8.1", "8.2"}
    assert cited("DOMAIN 1.9 (hours and days), 6.3 (zones), 6.4 (holidays), through") == {"1.9", "6.3", "6.4"}
    assert cited("grants nothing new (DOMAIN\n    2.4, France)") == {"2.4"}
    assert cited("# said by DOMAIN\n# 3.1, 15 s; DOMAIN 4.1 and 4.4") == {"3.1", "4.1", "4.4"}
    assert cited("(DOMAIN 5; 3GPP TS 23.038)") == {"5"}
