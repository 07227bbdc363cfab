"""Tell `divide` the tables of dispatch-svc: a shard holds the messages and consents of its people."""

from common.division import Divided
from dispatch.messages.store import IN_HAND
from dispatch.projection.store import REBUILDING

TABLES = Divided(
    "dispatch",
    of_people=("subject", "subject_next", "provider_block", "erasing"),
    placed=("message", "enforcement", "sending", "begun"),
    of_all=("comparison", "hold", "allowance", "bind_lease", "mo_name", "text_audit"),
    left={**IN_HAND, **REBUILDING},
)
