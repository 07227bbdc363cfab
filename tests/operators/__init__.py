"""The operators' side: their callbacks as raw bodies, signed as they sign them."""

import hashlib
import hmac
from datetime import datetime
from pathlib import Path

FOLDER = Path(__file__).parent


def body(name: str) -> bytes:
    """The fixture `name`, as "twilio/mo.form"."""
    return (FOLDER / name).read_bytes()


def signed(raw: bytes, secret: str, at: datetime) -> dict[str, str]:
    """The simulator's headers for this body."""
    stamp = str(int(at.timestamp()))
    mac = hmac.new(secret.encode(), stamp.encode() + b"." + raw, hashlib.sha256).hexdigest()
    return {"Placet-Timestamp": stamp, "Placet-Signature": f"v1={mac}"}
