"""Which files go first. The workers share the tests file by file: one that takes long and begins last keeps one worker
busy while the other has nothing left to do."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Protocol, TypeVar

# The longest first. `make test` tells xdist to leave this order alone: by itself it goes by how many tests a file has.
LONG = (
    "e2e/test_tutorial.py",
    "e2e/test_chaos.py",
    "e2e/test_demo_survives.py",
    "e2e/test_shop_killed.py",
    "kafka/test_three_brokers.py",
    "conformance/test_both_brokers.py",
    "service/dispatch/test_fail_points.py",
    "service/firewall/test_firewall.py",
    "service/dispatch/test_dispatch.py",
    "service/dispatch/test_shards.py",
    "service/dispatch/test_pipeline_machine.py",
    "service/callers/test_hostile_caller.py",
    "service/common/test_service_role.py",
    "service/common/test_widening.py",
    "service/rights/test_restored.py",
    "service/common/test_fuzz.py",
    "service/dispatch/test_dispatch_erasure.py",
    "service/dispatch/test_several_gateways.py",
    "service/rights/test_two_of_each.py",
    "service/consent/test_preference_page.py",
    "service/consent/test_imports.py",
    "service/consent/test_recorder.py",
    "service/consent/test_consent_api.py",
    "service/inbound/test_faults.py",
    "service/inbound/test_inbound_fuzz.py",
    "service/rights/test_controllers.py",
    "service/common/test_consumer.py",
    "service/rights/test_erasure.py",
    "service/dispatch/test_interleavings.py",
    "service/dispatch/test_rebuilding.py",
    "service/dispatch/test_by_smpp.py",
    "service/dispatch/test_smpp_killed.py",
    "service/common/test_traces.py",
    "service/dispatch/test_repeated_requests.py",
    "service/rights/test_rectification.py",
    "service/common/test_interleavings.py",
    "service/common/test_consumer_stalls.py",
    "service/dispatch/test_lost_records.py",
    "service/rights/test_moved_people.py",
    "service/rights/test_edge_ids.py",
    "service/stack/test_command_line.py",
    "service/common/test_relay.py",
    "service/consent/test_seals.py",
    "service/campaign/test_campaign_machine.py",
    "service/consent/test_ledger_machine.py",
    "service/campaign/test_killed_imports.py",
    "service/clients/test_shop.py",
    "service/rights/test_copies.py",
)


class Item(Protocol):
    @property
    def path(self) -> PurePath: ...


T = TypeVar("T", bound=Item)


def long_ones_first(items: Sequence[T], tests: PurePath) -> list[T]:
    """Those of the files of LONG, as they are listed there; then all others as they came. `tests`: the folder. Pure."""
    place = {tests / name: at for at, name in enumerate(LONG)}
    return sorted(items, key=lambda item: place.get(item.path, len(LONG)))
