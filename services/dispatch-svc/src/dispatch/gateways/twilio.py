"""Twilio Programmable Messaging: a form, one message a request, JSON back (DOMAIN 4.1).

Errors: Twilio's documentation, api/errors; classes as DOMAIN 4.4, opted out as 4.3. Two codes concern a single message:
a disabled region (21408) refuses the message, the quiet hours of the recipient's place (30610) delay it.
`ValidityPeriod` is of Twilio's own queue (twilio.com/docs/api/errors/90007).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import quote, urlencode

from dispatch.gateways.gateway import Capabilities, Misconfigured, Refused, Result, SendError, Submit, Throttled
from dispatch.gateways.provider import Account, Answer, NotNow, Request, basic, by_status, decode, seconds_left, text_of

URL = "https://api.twilio.com"
NEEDS = ("user", "secret")  # account SID and auth token
OPTIONS: Mapping[str, bool] = {"messaging_service_sid": False}  # instead of the sender's name
capabilities = Capabilities()

OPTED_OUT = "21610"
OF_SENDER = ("21212", "21603", "21606", "21659", "21660", "21661")  # no `From`, or a `From` not allowed for us
# a trial account; our callback URL; our messaging service; a filtered text: the account is at stake
OURS = ("21608", "21609", "21701", "21705", "30007")
LATER = ("20429", "21611", "30001", "63017", "63018")
BUSY_S = 5.0
LONGEST_VALIDITY_S = 36_000
QUIET_HOURS = "30610"
QUIET_S = 300.0  # Twilio does not say when the hours end


def request(messages: Sequence[Submit], account: Account, now: datetime) -> Request:
    [m] = messages
    fields = {"To": m.to, "Body": m.text}
    if service := account.options.get("messaging_service_sid"):
        fields["MessagingServiceSid"] = service
    else:
        fields["From"] = m.sender
    if account.callback_url:
        fields["StatusCallback"] = account.callback_url
    if (seconds := seconds_left(m, now)) is not None:
        fields["ValidityPeriod"] = str(min(seconds, LONGEST_VALIDITY_S))
    return Request(
        f"/2010-04-01/Accounts/{quote(account.user, safe='')}/Messages.json",
        {"Content-Type": "application/x-www-form-urlencoded", "Authorization": basic(account)},
        urlencode(fields).encode(),
    )


def read(answer: Answer, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
    if answer.status != 201:
        code = _code(answer)
        if code == OPTED_OUT:
            return [Result("rejected", None, code, opted_out=True)]
        if code in LATER:
            raise Throttled(BUSY_S)
        if code == QUIET_HOURS:
            raise NotNow(QUIET_S)
        if code in OF_SENDER or code in OURS:
            raise Misconfigured(code, of_sender=code in OF_SENDER)
        if answer.status == 400 and code:
            raise Refused(code)
        by_status(answer)
    return [Result("accepted", text_of(decode(answer), "sid"), None)]


def _code(answer: Answer) -> str:
    """Return the code of an error's body, or "" without a code."""
    try:
        return str(decode(answer)["code"])
    except (KeyError, ValueError, TypeError):
        return ""
