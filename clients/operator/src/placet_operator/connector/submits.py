"""Checks of submits: once each, whole, in the words of the sender."""

import asyncio
import json

from placet_operator.checking import Broken, Check
from placet_operator.connector.placet import Placet, body_of, results_of
from placet_operator.texts import EDGES, LONG

BATCH = 20
AT_ONCE = 5
PIECES, PAUSE_S = 12, 0.05
TOO_LONG = "lune " * 1000
MALFORMED = (b"", b"STOP", b"[]", b"{}", b'{"messages": []}', b'{"messages": [{}]}', b'{"messages": [7]}', b"\xff\xfe")


async def single(placet: Placet) -> str:
    message = placet.message("Votre commande est prête.")
    [result] = await placet.accepted(message)
    if await placet.on_phone(message["reference"]) != message["text"]:
        raise Broken("the phone shows another text")
    return f"accepted as an id of {len(result.id)} characters"


async def batch(placet: Placet) -> str:
    messages = [placet.message(f"Commande {n} prête.") for n in range(BATCH)]
    results = await placet.accepted(*messages)
    if len({each.id for each in results}) != BATCH:
        raise Broken("two messages of a batch have the same id")
    for message in messages:
        if await placet.on_phone(message["reference"]) != message["text"]:
            raise Broken("a message of a batch has the text of another")
    return f"{BATCH} messages, each with its id and its own text"


async def wrong_one(placet: Placet) -> str:
    messages = [placet.message("Un"), placet.message("Deux"), placet.message("Trois")]
    messages[1]["to"] = "nobody"
    first, second, third = await placet.submit(*messages)
    if (first.status, second.status, third.status) != ("accepted", "rejected", "accepted"):
        raise Broken("a message to no number is not rejected alone")
    await placet.is_not_sent(second.reference)
    return "rejected alone, the others accepted"


async def token(placet: Placet) -> str:
    for given in ("", f"{placet.token}x", placet.token[:-1]):
        message = placet.message("Personne")
        status, _ = await placet.post(body_of(message), given)
        if status != 401:
            raise Broken(f"a submit with a wrong token, or none, is answered with {status}")
        await placet.is_not_sent(message["reference"])
    return "401 without the token, and with two that are nearly right"


async def malformed(placet: Placet) -> str:
    for body in (*MALFORMED, json.dumps({"messages": "x" * 500_000}).encode()):
        status, _ = await placet.post(body, placet.token)
        if not 400 <= status < 500:
            raise Broken(f"a malformed body is answered with {status}, and so asks for a repetition or claims success")
    return f"{len(MALFORMED) + 1} malformed bodies, each refused with a 4xx"


async def once(placet: Placet) -> str:
    message = placet.message("Une seule fois")
    [first] = await placet.accepted(message)
    again = await asyncio.gather(*(placet.accepted(message) for _ in range(AT_ONCE)))
    side_by_side = placet.message("Une seule fois, de toutes parts")
    many = await asyncio.gather(*(placet.accepted(side_by_side) for _ in range(AT_ONCE)))
    if {each.id for [each] in again} != {first.id} or len({each.id for [each] in many}) != 1:
        raise Broken("a repeated reference is answered with another id")
    for each in (message, side_by_side):
        await placet.is_sent_once(each["reference"])
    return f"submitted {1 + 2 * AT_ONCE} times, 2 SMS"


async def lost_answer(placet: Placet) -> str:
    message = placet.message("La réponse s'est perdue")
    body = body_of(message)
    await placet.in_pieces(body, 1, 0.0, sent=len(body))
    await placet.accepted(message)
    await placet.is_sent_once(message["reference"])
    return "submitted again after a connection that ended before the answer, 1 SMS"


async def cut(placet: Placet) -> str:
    message = placet.message("Jamais arrivé")
    body = body_of(message)
    for sent in (0, len(body) // 2, len(body) - 1):
        await placet.in_pieces(body, 1, 0.0, sent=sent)
    await placet.is_not_sent(message["reference"])
    await placet.accepted(message)
    await placet.is_sent_once(message["reference"])
    return "3 submits that ended early sent nothing; the whole one did"


async def slow(placet: Placet) -> str:
    message = placet.message("Octet par octet")
    if (status := await placet.in_pieces(body_of(message), PIECES, PAUSE_S)) != 200:
        raise Broken(f"a submit that arrives slowly is answered with {status}")
    await placet.is_sent_once(message["reference"])
    return f"taken in {PIECES} pieces, {PAUSE_S * PIECES:.1f} s"


async def texts(placet: Placet) -> str:
    messages = {name: placet.message(text) for name, text in EDGES.items()}
    await placet.accepted(*messages.values())
    for name, message in messages.items():
        if await placet.on_phone(message["reference"]) != message["text"]:
            raise Broken(f"the phone shows another text than was submitted: {name}")
    return f"{len(messages)} texts, each on the phone as submitted"


async def long(placet: Placet) -> str:
    for name, text in LONG.items():
        message = placet.message(text)
        await placet.accepted(message)
        if (shown := await placet.on_phone(message["reference"])) != text:
            raise Broken(f"{len(shown)} of {len(text)} characters are on the phone, or in another order: {name}")
    endless = placet.message(TOO_LONG)
    status, body = await placet.post(body_of(endless), placet.token)
    if status == 200 and results_of(body, [endless])[0].status == "accepted":
        if await placet.on_phone(endless["reference"]) != TOO_LONG:
            raise Broken("a text that is too long is accepted, and cut off")
    elif status >= 500:
        raise Broken(f"a text that is too long is answered with {status}")
    return f"{', '.join(LONG)} whole; {len(TOO_LONG)} characters not cut off"


CHECKS = (
    Check("single", "Each message needs its own id, which its DLRs name.", "Answer accepted with an id.", single),
    Check("batch", "A campaign is handed off in batches.", "Answer one result for each reference.", batch),
    Check(
        "wrong one of a batch",
        "A refusal of the whole batch sends nothing to the others.",
        "Reject the one message, with a code.",
        wrong_one,
    ),
    Check("token", "Whoever may submit may text everybody.", "Answer 401, and send nothing.", token),
    Check(
        "malformed",
        "A 5xx means `unknown` to Placet: the operator may have the message.",
        "Answer what cannot be read with a 4xx.",
        malformed,
    ),
    Check(
        "once",
        "After a crash Placet may submit a reference again; a person must not get the SMS twice.",
        "Keep the reference with the SMS in one transaction, and answer a known one with the first result.",
        once,
    ),
    Check("lost answer", "An answer may be lost on the way.", "Keep the reference before you answer.", lost_answer),
    Check("cut submit", "A body that ends early is no submit.", "Compare the body with Content-Length.", cut),
    Check("slow submit", "A network may be slow.", "Read for as long as bytes come.", slow),
    Check(
        "texts",
        "A person has consented to the sender's words, not to question marks.",
        "Write GSM 7-bit where the text allows, else UCS-2; end no part within a character.",
        texts,
    ),
    Check(
        "long texts",
        "The STOP mention stands at the end: a text that is cut off is unlawful marketing.",
        "Send all parts, or reject the message.",
        long,
    ),
)
