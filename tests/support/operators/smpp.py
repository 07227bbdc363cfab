"""An SMSC as a process: `python -m tests.support.operators.smpp PORT`.

The SMSC prints each bind, each `submit_sm` and each session's end as a line of JSON. It obeys the last two digits of
the recipient.
"""

import asyncio
import json
import os
import sys
from typing import Any

import smpp34

MESSAGE_PAYLOAD = 0x0424
ACCEPTED, THROTTLED, BAD_SOURCE, BAD_DESTINATION, SYSTEM_ERROR, SILENT, DIES, BUSY_AT_THE_SECOND, HALF = range(1, 10)
NOT_BOUND, BAD_TON, BAD_NPI, NOT_BOUND_AT_FIRST, ANSWERED_LATE, BAD_DESTINATION_NPI, NOT_NOW = range(10, 17)
REFUSALS = {THROTTLED: 0x58, BAD_SOURCE: 0x0A, BAD_DESTINATION: 0x0B, SYSTEM_ERROR: 0x08}
REFUSALS |= {NOT_BOUND: 0x04, BAD_TON: 0x48, BAD_NPI: 0x49, BAD_DESTINATION_NPI: 0x51, NOT_NOW: 0x64}


def _say(**fact: Any) -> None:
    sys.stdout.write(json.dumps(fact) + "\n")
    sys.stdout.flush()


async def serve(port: int) -> None:
    server = smpp34.Server(host="127.0.0.1", port=port, system_id="operator")
    await server.start()
    _say(kind="up")
    taken, held, refused, first = 0, [], 0, None
    late: list[smpp34.SubmitSmEvent] = []
    while True:
        event = await server.next()
        if isinstance(event, smpp34.Esme):
            _say(kind="bind", system_id=event.system_id, receives=event.can_receive)
        if isinstance(event, smpp34.Unbound):
            _say(kind="unbind", session=event.session_id)
        if not isinstance(event, smpp34.SubmitSmEvent):
            continue
        _say(
            kind="submit",
            session=event.session_id,
            to=event.destination_addr,
            source=event.source_addr,
            source_ton=event.source_addr_ton,
            esm_class=event.esm_class,
            data_coding=event.data_coding,
            receipt=event.registered_delivery,
            text=event.short_message.hex(),
            payload="".join(t.value.hex() for t in event.tlvs if t.tag == MESSAGE_PAYLOAD),
        )
        first = first or event.session_id
        while late and event.session_id != first:
            late.pop().accept(message_id="late")
        wanted = int(event.destination_addr[-2:])
        second = event.esm_class == 0x40 and event.short_message[5] == 2
        if wanted in REFUSALS:
            event.reject(REFUSALS[wanted])
        elif wanted == NOT_BOUND_AT_FIRST and event.session_id == first:
            event.reject(REFUSALS[NOT_BOUND])
        elif wanted == ANSWERED_LATE:  # once another session is used
            late.append(event)
        elif wanted == SILENT:
            held.append(event)
        elif wanted == DIES:
            os._exit(1)
        elif second and (wanted == HALF or (wanted == BUSY_AT_THE_SECOND and refused < 2)):
            refused += 1
            event.reject(0x0B if wanted == HALF else 0x58)
        else:
            taken += 1
            event.accept(message_id=f"smsc-{taken}")


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
