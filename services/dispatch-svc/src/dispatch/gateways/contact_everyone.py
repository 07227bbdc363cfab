"""Contact Everyone of Orange Business, its API "light": a form with a token, one message a request (DOMAIN 4.1).

Source: symfony/symfony, Notifier/Bridge/ContactEveryone (fields, `xcharset`, the id as the whole answer);
betagouv/rdv-service-public, app/services/sms_sender.rb (as a form, which keeps number and token out of the URL). The
request names no sender, and people see the account's: the account says whose it is, and takes no other's messages.
Neither DLRs nor MOs come: no marketing. A text in parts, and one outside GSM 7-bit, is described nowhere we could read.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import urlencode

from dispatch.gateways.gateway import Capabilities, Misconfigured, Result, SendError, Submit
from dispatch.gateways.provider import Account, Answer, Request, by_status

URL = "https://contact-everyone.orange-business.com"
NEEDS = ("secret",)
OPTIONS: Mapping[str, bool] = {"sender": True}  # OADC that Orange has set for the account
capabilities = Capabilities(marketing=False, unicode=False, segments=1)

ID = re.compile(r'"?(?P<id>(?=[^"]*\d)[\w-]{1,200})"?', re.ASCII)


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    [m] = messages
    if m.sender != account.options["sender"]:
        raise Misconfigured("another_sender", of_sender=True)
    body = urlencode({"token": account.secret, "to": m.to, "msg": m.text, "xcharset": "true"})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return Request("/api/light/diffusions/sms", headers, body.encode())


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    by_status(answer)
    if (identity := ID.fullmatch(answer.body.decode().strip())) is None:
        raise ValueError("the answer is no id")
    return [Result("accepted", identity["id"], None)]
