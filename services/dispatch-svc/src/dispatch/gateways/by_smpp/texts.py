"""A text for an SMSC: its coding, and its parts. Pure."""

from dispatch.gateways import gsm7

GSM, UCS2 = 0, 8  # data_coding
OCTETS, PART_OCTETS = {GSM: 160, UCS2: 140}, {GSM: 153, UCS2: 134}


def parts_of(text: str, reference: int, *, as_payload: bool = False) -> tuple[int, list[bytes]]:
    """Return (data_coding, octets of each part). No character is cut in two.

    Each of several parts begins with a user data header (3GPP TS 23.040 9.2.3.24.1).
    """
    septets = gsm7.encode(text)
    coding = UCS2 if septets is None else GSM
    whole = text.encode("utf-16-be") if septets is None else septets
    if len(whole) <= OCTETS[coding] or as_payload:
        return coding, [whole]
    pieces = [b""]
    for character in text:
        octets = character.encode("utf-16-be") if septets is None else gsm7.encode(character) or b""
        if len(pieces[-1]) + len(octets) > PART_OCTETS[coding]:
            pieces.append(b"")
        pieces[-1] += octets
    return coding, [bytes((5, 0, 3, reference, len(pieces), number)) + piece for number, piece in enumerate(pieces, 1)]
