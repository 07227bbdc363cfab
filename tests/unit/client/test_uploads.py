"""Uploads of the Python client: parts, progress, cuts. The service played here is tus as `common.web.upload` speaks."""

from typing import Any

import httpx
import pytest

from placet_client import CutOff, Invalid, Placet, PlacetError, Retrying
from placet_client import upload as uploading

FILE = bytes(range(256)) * 40


class Tus:
    """An upload: `cuts` are the numbers of the requests that break, after which half of the part has arrived."""

    def __init__(self, *cuts: int, length: int | None = None) -> None:
        self.cuts = cuts
        self.length = length
        self.arrived = b""
        self.patches = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["tus-resumable"] == "1.0.0"
        if request.method == "PATCH":
            self.patches += 1
            assert request.headers["content-type"] == "application/offset+octet-stream"
            if int(request.headers["upload-offset"]) != len(self.arrived):
                return httpx.Response(409, json={"type": "/problems/mismatching-upload-offset"})
            if self.patches in self.cuts:
                self.arrived += request.content[: len(request.content) // 2]
                raise httpx.WriteError("cut")
            self.arrived += request.content
            self.length = int(request.headers["upload-length"])
        told = {"Upload-Offset": str(len(self.arrived))}
        if self.length is not None:
            told["Upload-Length"] = str(self.length)
        return httpx.Response(204 if request.method == "PATCH" else 200, headers=told)


def client(handle: Any) -> Placet:
    http = httpx.Client(transport=httpx.MockTransport(handle))
    return Placet("t", consent_url="http://c", campaign_url="http://k", retrying=Retrying(base_s=0.0), http=http)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "PART_BYTES", 1000)


def test_a_file_arrives_whole_over_cuts_with_progress_that_never_goes_back() -> None:
    tus = Tus(3, 4, 9)
    told: list[tuple[int, int]] = []
    client(tus).consent_imports.upload("imp-1", FILE, on_progress=lambda arrived, whole: told.append((arrived, whole)))
    assert tus.arrived == FILE
    assert told[0] == (0, len(FILE))
    assert told[-1] == (len(FILE), len(FILE))
    assert [arrived for arrived, _ in told] == sorted(arrived for arrived, _ in told)


def test_another_process_goes_on_where_the_first_ended() -> None:
    tus = Tus()
    tus.arrived = FILE[:4321]
    told: list[int] = []
    client(tus).contact_imports.upload("imp-1", FILE, on_progress=lambda arrived, whole: told.append(arrived))
    assert tus.arrived == FILE
    assert told[0] == 4321
    assert tus.patches == 6


def test_a_file_that_is_complete_already_is_not_sent() -> None:
    tus = Tus(length=len(FILE))
    tus.arrived = FILE
    client(tus).consent_imports.upload("imp-1", FILE)
    assert tus.patches == 0


def test_a_file_of_another_length_than_the_import_s_is_refused() -> None:
    tus = Tus(length=7)
    with pytest.raises(PlacetError, match="of a file of 7 bytes, and this file has 10240"):
        client(tus).consent_imports.upload("imp-1", FILE)
    assert tus.patches == 0


def test_an_upload_without_any_progress_ends_and_says_where() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.method == "PATCH":
            raise httpx.WriteError("cut")
        return httpx.Response(200, headers={"Upload-Offset": "12"})

    with pytest.raises(CutOff) as cut:
        client(handle).consent_imports.upload("imp-1", FILE)
    assert cut.value.offset == 12


def test_an_unusable_file_is_told_and_not_sent_again() -> None:
    patches = []

    def handle(request: httpx.Request) -> httpx.Response:
        if request.method == "PATCH":
            patches.append(request)
            return httpx.Response(422, json={"type": "/problems/invalid", "reasons": [{"reason": "no_number_column"}]})
        return httpx.Response(200, headers={"Upload-Offset": "0"})

    with pytest.raises(Invalid) as refused:
        client(handle).consent_imports.upload("imp-1", FILE)
    assert (refused.value.errors[0].reason, len(patches)) == ("no_number_column", 1)
