"""The modules that decide have no clock, no dice and no environment: the same question has the same answer for ever.

Import rules say which modules they may import; this looks at what they call, which import rules cannot see.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PURE = (
    "libs/common/src/common/law/*.py",
    "libs/common/src/common/sms/msisdn.py",
    "libs/common/src/common/sms/message_id.py",
    "libs/common/src/common/kafka/completeness.py",
    "libs/common/src/common/contracts/*.py",
    "services/consent-svc/src/consent/ledger/rules.py",
    "services/consent-svc/src/consent/senders/oadc.py",
    "services/consent-svc/src/consent/ledger/permission.py",
    "services/consent-svc/src/consent/imports/lines.py",
    "services/consent-svc/src/consent/imports/provider_list.py",
    "services/consent-svc/src/consent/page/copies.py",
    "services/consent-svc/src/consent/page/link.py",
    "services/consent-svc/src/consent/page/view.py",
    "services/consent-svc/src/consent/page/words.py",
    "services/campaign-svc/src/campaign/schedule/lifecycle.py",
    "services/campaign-svc/src/campaign/message/text.py",
    "services/campaign-svc/src/campaign/message/folding.py",
    "services/campaign-svc/src/campaign/message/wording.py",
    "services/campaign-svc/src/campaign/preflight/approval.py",
    "services/campaign-svc/src/campaign/audience/attribute.py",
    "services/campaign-svc/src/campaign/preflight/findings.py",
    "services/campaign-svc/src/campaign/preflight/forecast.py",
    "services/campaign-svc/src/campaign/audience/frequency.py",
    "services/campaign-svc/src/campaign/preflight/prices.py",
    "services/campaign-svc/src/campaign/audience/draw.py",
    "services/campaign-svc/src/campaign/schedule/revision.py",
    "services/campaign-svc/src/campaign/schedule/timing.py",
    "services/campaign-svc/src/campaign/message/variants.py",
    "services/campaign-svc/src/campaign/schedule/recurrence.py",
    "services/campaign-svc/src/campaign/audience/reach.py",
    "services/campaign-svc/src/campaign/message/short_link.py",
    "services/campaign-svc/src/campaign/links/visitors.py",
    "services/campaign-svc/src/campaign/audience/segment_language.py",
    "services/campaign-svc/src/campaign/accounts.py",
    "services/consent-svc/src/consent/ledger/chain.py",
    "services/consent-svc/src/consent/proof/receipt.py",
    "services/consent-svc/src/consent/proof/bundle.py",
    "services/consent-svc/src/consent/proof/seals.py",
    "libs/common/src/common/privacy/signing.py",
    "libs/common/src/common/sms/sms_length.py",
    "libs/common/src/common/spreadsheet.py",
    "services/campaign-svc/src/campaign/audience/contacts_file.py",
    "services/dispatch-svc/src/dispatch/gate/rules.py",
    "services/dispatch-svc/src/dispatch/gateways/*.py",
    "services/dispatch-svc/src/dispatch/messages/reasons.py",
    "services/dispatch-svc/src/dispatch/projection/limits.py",
    "services/dispatch-svc/src/dispatch/projection/loosening.py",
    "services/dispatch-svc/src/dispatch/gate/record.py",
    "services/inbound-svc/src/inbound/keywords/*.py",
    "services/inbound-svc/src/inbound/providers/*.py",
)
NOT_PURE = (
    "gateways/over_http.py",
    "gateways/kafka.py",
    "gateways/smpp.py",
    "gateways/pool.py",
    "gateways/settings.py",
)  # the connections beside pure formats
CLOCKS = {"now", "utcnow", "today"}
IMPURE_MODULES = {"time", "random", "secrets", "os", "asyncio", "socket"}
RANDOM_IDS = {"uuid1", "uuid4"}


def impurities(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (f"line {node.lineno}: imports {a.name}" for a in names if _root(a.name) in IMPURE_MODULES)
            case ast.ImportFrom(module=str(module)) if _root(module) in IMPURE_MODULES:
                yield f"line {node.lineno}: imports from {module}"
            case ast.ImportFrom(module="uuid", names=names):
                yield from (f"line {node.lineno}: imports {a.name}" for a in names if a.name in RANDOM_IDS)
            case ast.Attribute(attr=name) if name in CLOCKS | RANDOM_IDS:
                yield f"line {node.lineno}: .{name}"


def _root(module: str) -> str:
    return module.partition(".")[0]


PATHS = [path for pattern in PURE for path in sorted(ROOT.glob(pattern)) if not str(path).endswith(NOT_PURE)]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_that_decides_reads_no_clock_no_dice_and_no_environment(path: Path) -> None:
    assert list(impurities(path.read_text())) == []


def test_every_pure_module_is_looked_at() -> None:
    assert [pattern for pattern in PURE if not list(ROOT.glob(pattern))] == []


@pytest.mark.parametrize(
    "line",
    [
        "at = datetime.now(UTC)",
        "at = dt.datetime.utcnow()",
        "at = date.today()",
        "from time import time",
        "import time",
        "import os.path",
        "from random import choice",
        "import secrets",
        "from uuid import uuid4",
        "import uuid\nx = uuid.uuid4()",
        "clock = datetime.now",
    ],
)
def test_the_look_finds(line: str) -> None:
    assert list(impurities(line)) != []
