"""A policy file that decisions were made with is never edited: a change is the next number.

A file that is not here yet was not published yet; put it here when it is.
"""

import hashlib
from pathlib import Path

import pytest

from common import law
from common.law import files, load

LAW = Path(law.__file__).parent
PUBLISHED = {
    "countries/BE-2.json": "acbf1c2cc04a3e2a",
    "countries/CA-2.json": "0150faee54a168cc",
    "countries/DE-2.json": "277db65ffcf29772",
    "countries/ES-2.json": "bb805b08e1eb2648",
    "countries/FR-2.json": "6b054ff4eb215107",
    "countries/GB-2.json": "ad58946df033aa7e",
    "countries/US-2.json": "422130145b986ac3",
    "demonstration-3.json": "0648f6104ed15de1",
    "france-3.json": "d007114509983756",
}


def digest(name: str) -> str:
    return hashlib.sha256((LAW / name).read_bytes()).hexdigest()[:16]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_is_as_it_was(name: str) -> None:
    assert digest(name) == PUBLISHED[name], "make it the next number, and leave this one as it was"


def test_every_file_is_published_and_can_be_read() -> None:
    names = sorted(str(path.relative_to(LAW)) for path in LAW.rglob("*.json"))
    assert names == sorted(PUBLISHED)
    for name in names:
        stem = Path(name).stem
        assert files.country(stem) if name.startswith("countries/") else load(stem)
