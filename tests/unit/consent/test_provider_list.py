"""The opt-out lists of providers, as they are exported."""

import pytest

from consent.imports.provider_list import NotAList, numbers


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("number\n0639980001\n+33639980002\n", [(2, "0639980001"), (3, "+33639980002")]),
        ("0639980001\n\n0639980002", [(1, "0639980001"), (3, "0639980002")]),
        ("\ufeffDate;Téléphone\n2026-01-01;06 39 98 00 01\n", [(2, "06 39 98 00 01")]),
        ('id\tPhone Number\n7\t"06 39 98 00 01"\n8\n', [(2, "06 39 98 00 01"), (3, "")]),
        ('number,name\n0639980001,"Zo\nLi"\n0639980002,Li', [(2, "0639980001"), (4, "0639980002")]),
        ('number,name\n0639980001,"Zo\n0639980002,Li', [(2, ""), (3, "")]),  # each told as unreadable
        ("to;état\r0639980001;out\r", [(2, "0639980001")]),
        ('["+33639980001", "0033639980002"]', [(1, "+33639980001"), (2, "0033639980002")]),
        ("", []),
        ("[]", []),
    ],
)
def test_a_list_is_read_as_it_is_written(text: str, found: list[tuple[int, str]]) -> None:
    assert list(numbers(text)) == found


@pytest.mark.parametrize(
    "text",
    [
        "nom,prénom\nDurand,0639980001\n",
        "nom\nDurand\n",
        "0639980001,0639980002\n",
        '{"numbers": ["+33639980001"]}',
        '[{"number": "+33639980001"}]',
        "[33639980001]",
        "[" * 100_000,
        '["+33639980001"',
    ],
)
def test_what_is_no_list_that_anybody_documents_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(NotAList) as refused:
        list(numbers(text))
    assert "3998" not in str(refused.value)
