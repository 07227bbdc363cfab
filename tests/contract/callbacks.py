"""The JSON Schema of the `standard` callbacks, checked in under docs/schemas/callbacks.

`python -m tests.contract.callbacks` (`make schemas`) writes the schema.
"""

import json
from typing import Any, get_args

from common.contracts.inbound import ReceiptState
from inbound.providers.provider import ID_CHARS, NUMBER_CHARS
from inbound.providers.standard import RECEIPT, RECEIVED
from tests.contract.schemas import DIALECT, ROOT

PATH = ROOT / "docs" / "schemas" / "callbacks" / "standard.json"

Schema = dict[str, Any]


def schema() -> Schema:
    """Return the schema of both kinds of callback."""
    return DIALECT | {
        "title": "A callback of the provider `standard`",
        "description": "The body of a request, signed after Standard Webhooks (docs/operators/webhook.md).",
        "oneOf": [{"$ref": "#/$defs/MessageReceived"}, {"$ref": "#/$defs/MessageReceipt"}],
        "$defs": {
            "MessageReceived": _callback(
                RECEIVED,
                "An MO: a text from a person's phone.",
                {
                    "id": _id("Your id of the MO; a repeated id denotes the same MO.", ID_CHARS),
                    "from": _id("The person's number, E.164 (`+33639980001`).", NUMBER_CHARS),
                    "text": {
                        "type": "string",
                        "description": "The whole text: put the parts of a long text together. It may be empty.",
                    },
                    "to": _or_null(_id("The short code or number that the person wrote to.", NUMBER_CHARS, least=0)),
                    "sent_at": _or_null(_instant("When the person's text was sent, with an offset from UTC.")),
                },
                ["id", "from", "text"],
            ),
            "MessageReceipt": _callback(
                RECEIPT,
                "A DLR: what became of a submitted message. It may come more than once, and in any order.",
                {
                    "id": _id("Your id of the message, as in your answer to the submit.", ID_CHARS),
                    "status": {
                        "enum": list(get_args(ReceiptState)),
                        "description": "`opted_out`: the person opted out with you; this is evidence of an opt-out.",
                    },
                    "reference": _or_null(_id("Our id of the message, as in the submit.", ID_CHARS, least=0)),
                    "code": _or_null(_id("Your own code for the reason.", ID_CHARS, least=0)),
                    "at": _or_null(_instant("When the status was reached, with an offset from UTC.")),
                },
                ["id", "status"],
            ),
        },
    }


def _callback(kind: str, told: str, fields: Schema, needed: list[str]) -> Schema:
    return {
        "type": "object",
        "description": told,
        "properties": {
            "type": {"const": kind},
            "timestamp": {"description": "Of Standard Webhooks; not read: `webhook-timestamp` is."},
            "data": {"type": "object", "properties": fields, "required": needed},
        },
        "required": ["type", "data"],
    }


def _id(told: str, most: int, least: int = 1) -> Schema:
    printable = {"pattern": r"^[^\u0000-\u001f\u007f]*$"}
    return {"type": "string", "minLength": least, "maxLength": most, "description": told, **printable}


def _instant(told: str) -> Schema:
    return {"type": "string", "format": "date-time", "description": told}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}], "default": None}


def written() -> str:
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(written(), encoding="utf-8")
