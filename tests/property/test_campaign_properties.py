"""Texts and files: what holds for any of them."""

from hypothesis import given
from hypothesis import strategies as st

from campaign.contacts_csv import NotCsv, read
from campaign.text import TextRefused, parse
from common.sms_length import GSM7_BASIC, GSM7_EXTENSION, length

gsm7 = st.text(alphabet=GSM7_BASIC + GSM7_EXTENSION, max_size=800)
anything = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=400)


@given(st.one_of(gsm7, anything))
def test_a_text_costs_at_least_what_its_units_fill_and_little_more(text: str) -> None:
    found = length(text)
    single, part = (160, 153) if found.encoding == "GSM7" else (70, 67)
    if found.encoding == "UCS2":
        assert found.units == len(text.encode("utf-16-be")) // 2
    if found.units <= single:
        assert found.segments == 1
    else:
        assert -(-found.units // part) <= found.segments <= -(-found.units // (part - 1))


@given(gsm7, anything)
def test_a_longer_text_never_costs_less(text: str, more: str) -> None:
    assert length(text + more).segments >= length(text).segments


@given(anything, st.dictionaries(st.sampled_from(["a", "b"]), anything))
def test_a_text_is_refused_or_renders_with_every_field_filled(source: str, attributes: dict[str, str]) -> None:
    try:
        template = parse(source)
    except TextRefused:
        return
    filled = dict.fromkeys(template.required, "x") | {k: v for k, v in attributes.items() if v.strip()}
    assert template.missing(filled) is None
    template.render(filled, "36111")


@given(anything)
def test_escaped_braces_come_back_as_they_were(text: str) -> None:
    literal = text.strip()
    if literal:
        source = literal.replace("{", "{{").replace("}", "}}")
        assert parse(source).render({}, "36111") == literal.replace("\r\n", "\n").strip()


@given(
    st.lists(st.integers(0, 9999), max_size=30),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "cp1252", "utf-16"]),
    st.integers(1, 64),
)
def test_a_file_reads_the_same_however_it_is_cut(
    numbers: list[int], delimiter: str, end: str, charset: str, piece: int
) -> None:
    rows = ["mobile,prénom", *(f"06 39 98 {n // 100:02} {n % 100:02},Zoé" for n in numbers)]
    body = "".join(row.replace(",", delimiter) + end for row in rows).encode(charset)
    found = [
        (contact.line, contact.msisdn.e164, contact.attributes)
        for chunk in read((body[i : i + piece] for i in range(0, len(body), piece)), fictional=True, size=7)
        for contact in chunk.contacts
    ]
    assert found == [(line, f"+3363998{n:04}", {"prenom": "Zoé"}) for line, n in enumerate(numbers, start=2)]


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_any_bytes_are_read_or_refused(pieces: list[bytes]) -> None:
    try:
        for chunk in read(iter([b"mobile;a\n", *pieces])):
            assert len(chunk.contacts) + len(chunk.refusals) > 0
    except NotCsv:
        return
