"""Events and evidence, valid by default; a test names what matters to it. Numbers are of the French fictional range."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from common.contracts.campaign import (
    CampaignControlled,
    MessageRequested,
    MessageReworded,
    MessagesRequested,
    Request,
    TemplateChanged,
    TemplateField,
)
from common.contracts.consent import Cause, Consent, ConsentStateChanged, Purpose, SenderChanged, Suppression
from common.contracts.inbound import ReceiptReceived
from common.contracts.rights import ErasureRequested
from common.kafka.broker import partition_of
from common.keyring import FieldKeys, LinkKeys, SubjectKeys
from common.settings import KeyRingSettings, SubjectRingSettings
from common.sms.message_id import message_id
from common.sms.subject_id import InnerId
from common.web.edge_id import EdgeIds
from tests.support.running import KEY_RING, ORGANISATION, SUBJECT_RING

SENDER = "maison-lune"
STOP_CODE = "36111"
CODES_SENDER = "maison-lune-compte"  # of transactional messages: its code is a 38xxx
CODES_STOP_CODE = "38111"
TEXT = "Maison Lune : -20 % ce samedi. STOP au 36111"

_SUBJECT_RING = SubjectRingSettings.model_validate(SUBJECT_RING)
subject_keys = SubjectKeys(_SUBJECT_RING)
edge_ids = EdgeIds(_SUBJECT_RING)
field_keys = FieldKeys(KeyRingSettings.model_validate(KEY_RING), subject_keys)
link_keys = LinkKeys(KeyRingSettings.model_validate(KEY_RING), subject_keys)


def inner(subject_id: str) -> InnerId:
    """Return the inner id; of an id made up for a test, the id itself."""
    return subject_keys.inner(subject_id) if subject_keys.is_subject_id(subject_id) else InnerId(subject_id)


def number(n: int) -> str:
    """The n-th number of the fictional range, E.164; n below 10,000."""
    return f"+3363998{n:04d}"


def shop_export() -> str:
    """A shop's export of three customers, with Shopify's titles and the date of a consent: the first accepts SMS."""
    return (
        "Customer ID,First Name,Phone,Default Address Phone,Accepts SMS Marketing,Consent date\n"
        f"7001,Zoé,'{number(1)},{number(8)},yes,03/11/2025 14:05\n"
        "7002,Léo,06 39 98 00 02,,no,\n"
        f"7003,Ana,{number(3)},,no,\n"
    )


def subject(n: int) -> str:
    return subject_keys.subject_id(number(n))


def shown(n: int, controller: str = SENDER) -> str:
    """The id of the n-th number's person that callers of this controller see."""
    return edge_ids.of(controller).shown(subject(n))


def now() -> datetime:
    return datetime.now(UTC)


def called(sender: dict[str, Any], sender_id: str) -> dict[str, Any]:
    """The body of a sender like this one, of a legal entity of its own: with names of its own."""
    names = {"brand": sender_id.capitalize(), "oadc": sender_id.replace("-", "").upper()[:11]}
    return sender | names | {"sender_id": sender_id}


def sender_changed(**more: Any) -> SenderChanged:
    fields: dict[str, Any] = {
        "sender_id": SENDER,
        "version": 1,
        "organisation_id": ORGANISATION,
        "controller_id": SENDER,
        "legal_name": "Maison Lune SAS",
        "brand": "Maison Lune",
        "contact": "contact@maison-lune.example",
        "country": "FR",
        "oadc": "MAISONLUNE",
        "stop_code": STOP_CODE,
        "purposes": (Purpose(id="promotions", wording="Nos offres"), Purpose(id="loyalty", wording="Vos points")),
    }
    return SenderChanged(**{**fields, **more})


def codes_sender_changed(**more: Any) -> SenderChanged:
    fields = {"sender_id": CODES_SENDER, "oadc": "LUNECOMPTE", "stop_code": CODES_STOP_CODE, "purposes": ()}
    return sender_changed(**{**fields, **more})


def template_changed(**more: Any) -> TemplateChanged:
    """An approved version of a template, whose message is a code."""
    template_id, number = more.pop("template_id", "tpl-code"), more.pop("number", 1)
    fields: dict[str, Any] = {
        "template_version": f"{template_id}@{number}",
        "template_id": template_id,
        "number": number,
        "sender_id": CODES_SENDER,
        "category": "transactional",
        "language": "fr",
        "text": "Maison Lune : votre code est {code}.",
        "fields": (TemplateField(name="code", max_chars=20),),
        "state": "approved",
        "version": 1,
    }
    return TemplateChanged(**{**fields, **more})


def opted_in(n: int, version: int = 1, **more: Any) -> ConsentStateChanged:
    at = more.pop("occurred_at", now() - timedelta(days=1))
    consent = Consent(
        sender_id=SENDER, purpose="promotions", state="opted_in", basis="opt_in", occurred_at=at, evidence_id="e-in"
    )
    fields: dict[str, Any] = {
        "subject_id": subject(n),
        "version": version,
        "consents": (consent,),
        "suppressions": (),
        "erased": False,
        "causes": (Cause(kind="opt_in", source="form", evidence_id="e-in", received_at=at),),
    }
    return ConsentStateChanged(**{**fields, **more})


def opted_out(n: int, version: int = 2, **more: Any) -> ConsentStateChanged:
    at = more.pop("occurred_at", now())
    consent = Consent(
        sender_id=SENDER, purpose="promotions", state="opted_out", basis=None, occurred_at=at, evidence_id="e-out"
    )
    reference = more.pop("reference", f"simulator/main/mo-{uuid4()}")
    cause = Cause(kind="opt_out", source="mo", evidence_id="e-out", received_at=at, reference=reference)
    fields: dict[str, Any] = {
        "subject_id": subject(n),
        "version": version,
        "consents": (consent,),
        "suppressions": (Suppression(sender_id=SENDER, since=at),),
        "erased": False,
        "causes": (cause,),
    }
    return ConsentStateChanged(**{**fields, **more})


def requested(n: int, **more: Any) -> MessageRequested:
    text = more.pop("text", TEXT)
    subject_id = more.get("subject_id", subject(n))
    campaign_id = more.get("campaign_id", "c1")
    identity = more.pop("message_id", str(message_id(now(), str(campaign_id), subject_id, str(uuid4()))))
    fields: dict[str, Any] = {
        "message_id": identity,
        "campaign_id": "c1",
        "sender_id": SENDER,
        "purpose": "promotions",
        "category": "marketing",
        "subject_id": subject_id,
        "number": field_keys.seal(number(n), f"number:{subject_id}"),
        "text": field_keys.seal(text, f"text:{identity}"),
        "requested_at": now(),
        "send_before": now() + timedelta(days=1),
    }
    return MessageRequested(**{**fields, **more})


def together(requests: Sequence[MessageRequested], partitions: int, most: int = 100) -> list[MessagesRequested]:
    """The same requests of a campaign as campaign-svc writes them, in their order in each partition."""
    alike: dict[tuple[Any, ...], list[MessageRequested]] = {}
    for each in requests:
        home = partition_of(each.subject_id, partitions)
        shared = (home, each.campaign_id, each.sender_id, each.purpose, each.requested_at, each.send_before)
        alike.setdefault(shared, []).append(each)
    return [
        MessagesRequested(
            campaign_id=str(shared[1]),
            sender_id=shared[2],
            purpose=shared[3],
            requested_at=shared[4],
            send_before=shared[5],
            requests=tuple(
                Request(
                    message_id=each.message_id,
                    subject_id=each.subject_id,
                    number=each.number,
                    text=each.text,
                    region=each.region,
                )
                for each in some[at : at + most]
            ),
        )
        for shared, some in alike.items()
        for at in range(0, len(some), most)
    ]


def controlled(control: str, version: int = 1, campaign_id: str = "c1") -> CampaignControlled:
    return CampaignControlled(campaign_id=campaign_id, sender_id=SENDER, control=control, version=version)  # type: ignore[arg-type]


def receipt(
    state: str,
    *,
    reference: str | None = None,
    gateway_id: str | None = None,
    provider: str = "simulator",
    account: str = "main",
    blocked: bool = False,
    code: str | None = None,
) -> ReceiptReceived:
    return ReceiptReceived(
        provider=provider,
        account=account,
        provider_message_id=gateway_id or f"op-{reference}",
        reference=reference,
        state=state,  # type: ignore[arg-type]
        code=code,
        occurred_at=now(),
        received_at=now(),
        blocked=blocked,
    )


def erasure_requested(n: int, **more: Any) -> ErasureRequested:
    fields: dict[str, Any] = {"erasure_id": str(uuid4()), "subject_id": subject(n), "controller_id": None}
    fields["requested_at"] = now()
    return ErasureRequested(**{**fields, **more})


def reworded(request: MessageRequested, text: str | None, region: str | None = None) -> MessageReworded:
    """That this message is to say something else, or is of another region."""
    return MessageReworded(
        message_id=request.message_id,
        campaign_id=request.campaign_id or "",
        subject_id=request.subject_id,
        text=None if text is None else field_keys.seal(text, f"text:{request.message_id}"),
        reworded_at=now(),
        region=region,
    )
