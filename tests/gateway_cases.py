"""Accounts and answers of every HTTP gateway, for the tests that all of them share. Own words; fictional numbers."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from uuid import UUID

from dispatch.gateways import Account, Submit


@dataclass(frozen=True)
class Case:
    """One provider's account, and the body with which it accepts a message."""

    account: Account
    accepts: Callable[[Submit], object]
    status: int = 200
    more: dict[str, str] = field(default_factory=dict)

    def at(self, url: str) -> Account:
        return replace(self.account, url=url)

    def accepted(self, message: Submit) -> bytes:
        said = self.accepts(message)
        body = said.encode() if isinstance(said, str) else json.dumps(said).encode()
        return b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n%b" % (self.status, len(body), body)


def submit(n: int, text: str = "Offre du jour. STOP au 36111", category: str = "marketing") -> Submit:
    return Submit(
        reference=str(UUID(int=0x01A21522C89F8DE0A0EE000000000000 + n)),
        subject_id=f"t1-{n:032x}",
        to="+3363998" + f"{n:04d}",
        sender="MAISONLUNE",
        short_code="36111",
        category=category,
        text=text,
    )


ACCOUNTS: dict[str, Case] = {
    "simulator": Case(
        Account("simulator", secret="a-token"),
        lambda m: {"results": [{"reference": m.reference, "id": "sim-1", "status": "accepted"}]},
    ),
}
