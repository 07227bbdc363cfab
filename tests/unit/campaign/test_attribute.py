"""What an attribute holds, and how it is kept."""

import pytest

from campaign.audience.attribute import Inference, Kind, kept


@pytest.mark.parametrize(
    ("raw", "kind", "as_kept"),
    [
        ("n'importe quoi", Kind.TEXT, "n'importe quoi"),
        ("12", Kind.NUMBER, "12"),
        ("-12.50", Kind.NUMBER, "-12.50"),
        ("1 234,5", Kind.NUMBER, "1234.5"),
        ("1\u202f234\u00a0567", Kind.NUMBER, "1234567"),
        ("\u221212", Kind.NUMBER, "-12"),
        ("12 €", Kind.NUMBER, None),
        ("1e3", Kind.NUMBER, None),
        ("1,2,3", Kind.NUMBER, None),
        ("NaN", Kind.NUMBER, None),
        ("\u0661\u0662", Kind.NUMBER, None),
        ("1" * 16, Kind.NUMBER, None),
        ("2026-11-26", Kind.DATE, "2026-11-26"),
        ("26/11/2026", Kind.DATE, "2026-11-26"),
        ("6.1.2026", Kind.DATE, "2026-01-06"),
        ("2026-02-30", Kind.DATE, None),
        ("11/26/2026", Kind.DATE, None),
        ("20261126", Kind.DATE, None),
        ("Oui", Kind.BOOLEAN, "true"),
        ("0", Kind.BOOLEAN, "false"),
        ("peut-être", Kind.BOOLEAN, None),
    ],
)
def test_a_value_is_kept_in_one_way_or_refused(raw: str, kind: Kind, as_kept: str | None) -> None:
    assert kept(raw, kind) == as_kept
    if as_kept is not None:
        assert kept(as_kept, kind) == as_kept


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("points", ["12", "", "-3.5"], Kind.NUMBER),
        ("points", ["12", "n/a"], Kind.TEXT),
        ("points", ["12,5"], Kind.TEXT),  # not as it is kept: somebody has to say so
        ("points", ["", ""], None),
        ("points", ["2026-01-01", "12"], Kind.TEXT),
        ("born", ["2026-01-01", "2025-12-31"], Kind.DATE),
        ("vip", ["true", "false"], Kind.BOOLEAN),
        ("vip", ["1", "0"], Kind.NUMBER),
        ("code", ["01000"], Kind.TEXT),  # what begins with 0 is a name
        ("code", ["1234567890"], Kind.TEXT),
        ("postcode", ["75001"], Kind.TEXT),
        ("customer_id", ["12"], Kind.TEXT),
    ],
)
def test_a_column_holds_what_all_its_values_are(name: str, values: list[str], kind: Kind | None) -> None:
    seen = Inference(name)
    for value in values:
        seen.see([value])
    assert seen.kind == kind
