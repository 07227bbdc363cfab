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
    "countries/BE-1.json": "9cea670c8df02ed7",
    "countries/CA-1.json": "162f71a5793d687c",
    "countries/DE-1.json": "03b40f018e5c7a07",
    "countries/ES-1.json": "c7d37762bd82b0d6",
    "countries/FR-1.json": "0726603070d05db9",
    "countries/GB-1.json": "6ae8d0ab0ecffbf2",
    "countries/US-1.json": "c22be7322d62651f",
    "demonstration-2.json": "efca3987e034f9c4",
    "france-2.json": "21c3d99e0292dd92",
    "france-3.json": "581bbc2e9a1f746e",
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
