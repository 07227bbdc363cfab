"""Write docs/settings.md from the settings classes of the four services: `make reference`."""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types
from pydantic import AnyUrl, BaseModel, HttpUrl, SecretStr
from pydantic.fields import FieldInfo

import campaign.service
import consent.page.routes
import consent.service
import dispatch.service
import inbound.service
from common.settings import HoursSettings, KeyRingSettings, PricedSettings, ServiceSettings
from common.settings.environment import PREFIX
from common.settings.shards import DividedSettings, ShardedSettings, SlottedSettings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
SERVICES: Mapping[str, type[ServiceSettings]] = {
    "consent": consent.service.Settings,
    "inbound": inbound.service.Settings,
    "campaign": campaign.service.Settings,
    "dispatch": dispatch.service.Settings,
}
PARTS: Mapping[str, tuple[type[ServiceSettings], ...]] = {
    "Shared": (ServiceSettings, HoursSettings, PricedSettings, DividedSettings, ShardedSettings),
    "consent-svc": (consent.page.routes.PageSettings, consent.service.Settings),
    "inbound-svc": (inbound.service.Settings,),
    "campaign-svc": (SlottedSettings, campaign.service.Settings),
    "dispatch-svc": (dispatch.service.Settings,),
}
BY_SUFFIX = (
    ("_per_s", "messages/s"),
    ("_s", "seconds"),
    ("_days", "days"),
    ("_bytes", "bytes"),
    ("_per_day", "a day"),
    ("_number_day", "a day"),
    ("_number_month", "a month"),
    ("_hour", "an hour"),
)
UNITS = {
    "database_pool": "connections",
    "connections": "connections",
    "health_port": "port",
    "kafka_replication": "replicas",
    "partitions": "partitions",
    "work_partitions": "partitions",
    "relay_batch": "rows",
    "traces_ratio": "share",
    "import_backlog": "events",
    "outbox_backlog": "rows",
    "request_chunk": "recipients",
    "codes_per_organisation": "codes",
    "names_per_organisation": "names",
    "gateway_batch": "messages",
    "gateway_submits": "submits",
    "intake_batch": "records",
    "marketing_cap": "messages",
    "keep": "days",
}
# The roles that use a setting, where not all do: a wrong value ends every role.
API, WORKER, RELAY = "api", "worker", "relay"
DECIDING = "worker, projection"
ROLES = {
    **dict.fromkeys(("auth_key", "auth_jwks_url", "auth_issuer", "auth_audience"), API),
    **dict.fromkeys(("watermark_every_s", "relay_batch", "relay_ack_timeout_s"), RELAY),
    **dict.fromkeys(("kafka_idempotence",), "worker, projection, relay"),
    **dict.fromkeys(("kafka_groups",), DECIDING),
    **dict.fromkeys(("kafka_replication", "topic_prefix", "max_clock_skew_s"), "worker, projection, relay"),
    **dict.fromkeys(("retired_signing_keys", "signing_keys", "protected_names"), API),
    **dict.fromkeys(("codes_per_organisation", "names_per_organisation", "shared_codes"), API),
    **dict.fromkeys((name for name in consent.service.Settings.model_fields if name.startswith("double_opt_in")), API),
    **dict.fromkeys(("last_message_days", "erasure_late_after_s", "seal_every_s", "sum_every_s"), WORKER),
    **dict.fromkeys(("import_backlog", "keep", "request_chunk", "outbox_backlog", "repeat_after_s"), WORKER),
    **dict.fromkeys(("import_max_bytes", "rate_per_s", "publish_timeout_s", "provider_accounts"), API),
    "webhooks_private": "api, projection",
    **dict.fromkeys(("kafka_operators", "ovh_services", "ovh_poll_every_s", "hold_told_after_s"), WORKER),
    **dict.fromkeys(("gateway_submits", "submit_timeout_s", "permit_ttl_s", "settle_margin_s"), DECIDING),
    **dict.fromkeys(("marketing_cap", "marketing_cap_days", "intake_batch", "marketing_settle_s"), DECIDING),
}


class Setting(NamedTuple):
    """A row of the page."""

    name: str
    type: str
    unit: str
    default: str
    services: str
    roles: str
    secret: bool
    meaning: str

    @property
    def variable(self) -> str:
        return f"{PREFIX}{self.name.upper()}"


def meanings(kind: type[ServiceSettings]) -> dict[str, str]:
    """Return the docstring below each field of the class itself, on one line."""
    [body] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, following in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            said = following.value if isinstance(following, ast.Expr) else None
            text = said.value if isinstance(said, ast.Constant) and isinstance(said.value, str) else ""
            found[statement.target.id] = " ".join(text.split())
    return found


def settings(part: str) -> Iterator[Setting]:
    """Yield the settings of a part of the page, as their classes list them."""
    for kind in PARTS[part]:
        for name, meaning in meanings(kind).items():
            if name != "model_config":
                field = kind.model_fields[name]
                users = [service for service, each in SERVICES.items() if issubclass(each, kind)]
                yield Setting(
                    name=name,
                    type=_type(name, field),
                    unit=UNITS.get(name) or next((unit for suffix, unit in BY_SUFFIX if name.endswith(suffix)), ""),
                    default=_default(field),
                    services="all" if len(users) == len(SERVICES) else ", ".join(users),
                    roles=ROLES.get(name, "all"),
                    secret=name in ("database_url", "shards") or _holds_secret(field.annotation),
                    meaning=meaning,
                )


def _bare(annotation: Any) -> Any:
    """Return the annotation without `| None` and Annotated."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        [only] = [each for each in get_args(annotation) if each is not type(None)]
        return _bare(only)
    return annotation


def _type(name: str, field: FieldInfo) -> str:
    kind = _bare(field.annotation)
    if name.endswith("_dir"):
        return "folder"
    if get_origin(kind) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is frozenset and get_origin(get_args(kind)[0]) is Literal:
        return "list of " + ", ".join(f"`{value}`" for value in sorted(get_args(get_args(kind)[0])))
    if kind in (HttpUrl, AnyUrl):
        return "URL"
    if get_origin(kind) in (tuple, frozenset):
        return "JSON list"
    if get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return "JSON object"
    if isinstance(kind, type) and issubclass(kind, Path):
        return "file"
    named = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text", SecretStr: "text"}[kind]
    return " ".join([named, *_bounds(field)])


def _bounds(field: FieldInfo) -> Iterator[str]:
    for each in field.metadata:
        match each:
            case annotated_types.Ge():
                yield f"≥ {each.ge}"
            case annotated_types.Gt():
                yield f"> {each.gt}"
            case annotated_types.Le():
                yield f"≤ {each.le}"
            case annotated_types.Lt():
                yield f"< {each.lt}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    match value:
        case None | "" | () | {}:
            return ""
        case frozenset():
            return "`all`" if value else ""
        case bool():
            return f"`{json.dumps(value)}`"
        case SecretStr():
            return f"`{value.get_secret_value()}`" if value.get_secret_value() else ""
        case BaseModel():
            return "[retention](retention.md)"
    return f"`{value}`"


def _holds_secret(annotation: Any) -> bool:
    if annotation in (SecretStr, KeyRingSettings):
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return any(_holds_secret(each.annotation) for each in annotation.model_fields.values())
    return any(_holds_secret(each) for each in get_args(annotation))


INTRODUCTION = f"""# Settings

<!-- written by `make reference` from the settings classes: change the docstring below a field -->

A process reads its settings from variables that begin with `{PREFIX}`, or from files of the same name in lower case,
in the folder of `{PREFIX}SECRETS_DIR`. The environment has precedence. A wrong, missing or unknown variable ends the
process with a sentence for each. This checks them and starts nothing:

```sh
python -m consent settings --check
```

A JSON value is written in one line: `{PREFIX}SHARED_CODES='["36111"]'`. **Secret**: mount a file, and keep the value
out of images and repositories. **Roles**: the roles that use the setting. Every role refuses a wrong value, so give all
roles of a service the same settings but `{PREFIX}ROLES`, `{PREFIX}PORT` and `{PREFIX}NICE`.
"""
HEAD = "| Setting | Type | Unit | Default | Services | Roles | Secret | Meaning |\n|---|---|---|---|---|---|---|---|"


def page() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION]
    for part in PARTS:
        rows = [
            f"| `{each.variable}` | {each.type} | {each.unit} | {each.default} | {each.services} | {each.roles}"
            f" | {'secret' if each.secret else ''} | {each.meaning} |"
            for each in settings(part)
        ]
        parts.append("\n".join([f"\n## {part}\n", HEAD, *rows, ""]))
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
