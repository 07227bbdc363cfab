"""The wiring of dispatch-svc: settings, workers, subscriptions, readiness."""

from collections.abc import Sequence
from datetime import timedelta

from pydantic import Field, HttpUrl, SecretStr, model_validator

from common import division
from common.contracts import operator_submits, operator_topics
from common.contracts.campaign import Category
from common.db.timer import Worker
from common.law import at_hand_off
from common.privacy.moving import Moves
from common.privacy.pruning import Pruner
from common.privacy.resealing import whole
from common.service import Background, Resources, Service
from common.settings import PricedSettings
from common.settings.shards import ShardedSettings
from dispatch import api, schema, timeline
from dispatch.accepting import api as accepting
from dispatch.accepting import reports, totals
from dispatch.audit.invariants import Checker
from dispatch.gate.clearance import Clearance
from dispatch.gateways.by_smpp import gateway as by_smpp
from dispatch.gateways.gateway import longest_sent
from dispatch.gateways.settings import GatewaySettings, refuse_unanswered, traffic_of
from dispatch.lane import Lane
from dispatch.messages import store as messages
from dispatch.privacy import pruning
from dispatch.privacy.copy import copier
from dispatch.privacy.erasure import eraser
from dispatch.projection import apply
from dispatch.projection import store as projection
from dispatch.projection.checksum import Comparing, consents_are_the_same
from dispatch.projection.freshness import Freshness, consent_is_fresh
from dispatch.projection.limits import Limits
from dispatch.quotas.budget import Budget
from dispatch.sending import receipts
from dispatch.sending.pipeline import Handoff, Intake
from dispatch.sending.timers import Timers

# of each gateway's rate, for transactional and service messages
CODES_PART = 0.2
BATCH_BYTES = 8 * 1024 * 1024  # a thousand messages of ten SMS


class Settings(ShardedSettings, PricedSettings):
    gateways: tuple[GatewaySettings, ...] = ()
    """The accounts that messages leave by: docs/providers.md."""
    gateway_url: HttpUrl | None = None
    """The simulator, as the cheapest gateway: development only."""
    gateway_token: SecretStr = SecretStr("")
    """The simulator's token."""
    gateway_idempotent: bool = False
    """The simulator keeps a repeated reference as the same SMS. Without (DOMAIN 4.1), a crash leaves `unknown`, never
    two SMS.
    """
    gateway_echoes_reference: bool = True
    """The simulator's DLRs carry the reference. Off: DLRs name only the gateway's ids."""
    gateway_batch: int = Field(100, ge=1, le=1000)
    """Messages in a submit to the simulator."""
    gateway_submits: int = Field(4, ge=1)
    """Concurrent submits of a gateway; more would only delay a STOP."""
    submit_timeout_s: float = Field(8.0, gt=0)
    """How long a submit may take. Shorter than `drain_s`: a planned stop waits for answers."""

    max_staleness_s: float = Field(2.0, gt=0, le=600)
    """Marketing is on hold while consents are older (promise 1). Far below the topic's `min.compaction.lag.ms`
    (ADR-0004).
    """
    marketing_cap: int | None = Field(None, ge=1)
    """Marketing messages of a sender to a person in `marketing_cap_days`. Without: no cap."""
    marketing_cap_days: float = Field(7.0, gt=0, le=366)
    """The window of `marketing_cap`."""
    hold_told_after_s: float = Field(10.0, gt=0)
    """How long a hold, or its end, must last before campaign-svc is told."""
    permit_ttl_s: float = Field(1.0, gt=0)
    """A hand-off begins within this time of its decision, or the message is decided again."""
    settle_margin_s: float = 5.0
    """After permit and submit: a message `sending` for longer is a dead process's."""
    intake_batch: int = Field(500, ge=1, le=5000)
    """Records in a transaction; a STOP of the partition waits for the transaction."""

    marketing_settle_s: float = Field(0.5, ge=0, le=5)
    """How old a campaign's request is at its decision, unless three quarters of a batch wait: by then a watermark
    speaks of what was acknowledged before the request.
    """

    keep: pruning.Periods = pruning.Periods()
    """Retention periods, an object with the fields of `Periods`: docs/retention.md."""

    @property
    def every_gateway(self) -> Sequence[GatewaySettings]:
        if self.gateway_url is None:
            return self.gateways
        simulator = GatewaySettings(
            provider="simulator",
            url=self.gateway_url,
            secret=self.gateway_token,
            batch=self.gateway_batch,
            idempotent=self.gateway_idempotent,
            echoes_reference=self.gateway_echoes_reference,
        )
        return (*self.gateways, simulator)

    def longest_sent(self, text: str, category: Category, stop_code: str) -> str:
        """Return the text that a person receives by the gateway that makes most SMS of the text."""
        return longest_sent((each.capabilities for each in self.every_gateway), text, category, stop_code)

    @model_validator(mode="after")
    def _there_is_a_way_out(self) -> "Settings":
        names = [gateway.name for gateway in self.every_gateway]
        if not names:
            raise ValueError("there is no gateway: set PLACET_GATEWAYS (docs/providers.md)")
        if len(names) != len(set(names)):
            raise ValueError("a gateway is given twice")
        told = [name for each in self.every_gateway for name in each.told_by]
        if len({*names, *told}) != len(names) + len(told):
            raise ValueError("receipts of one account are of one gateway")
        refuse_unanswered(self.every_gateway)
        return self

    @model_validator(mode="after")
    def _a_stop_waits_for_the_operators_answer(self) -> "Settings":
        if self.drain_s <= self.submit_timeout_s:
            raise ValueError("drain_s must exceed submit_timeout_s, or a planned stop leaves outcomes unknown")
        return self


def limits_of(settings: Settings) -> Limits:
    return Limits(
        max_staleness=timedelta(seconds=settings.max_staleness_s),
        max_clock_skew=timedelta(seconds=settings.max_clock_skew_s),
        cap=settings.marketing_cap,
        cap_window=timedelta(days=settings.marketing_cap_days),
    )


SEALED = (
    whole("message", "number", "number:{subject_id}"),
    whole("message", "text", "text:{message_id}"),
)

MOVES = Moves(
    unless=messages.IN_HAND | projection.REBUILDING | division.DIVIDED,
    before=projection.WITHOUT_OFFSETS,
    placed=("message", "enforcement"),
)


def build(settings: Settings | None = None) -> Service[Settings]:
    settings = settings or Settings()
    policy = at_hand_off(settings.policy)
    timeout = timedelta(seconds=settings.permit_ttl_s + settings.submit_timeout_s + settings.settle_margin_s)
    told_by = {name: each.name for each in settings.every_gateway for name in each.told_by}
    binds = by_smpp.Shared()
    heard = [each.account for each in settings.gateways if each.hears]

    def sending(held: Resources[Settings], lane: Lane, part: float) -> tuple[Handoff, Intake, Timers]:
        """Return the hand-off, intake and timers of one lane. `part`: of the gateways' rates.

        The lanes share only the database, and the binds of a gateway over SMPP.
        """
        binds.serve(lane, held.shards.first.database, held.subject_keys.fingerprint)
        traffic = traffic_of(
            settings.every_gateway,
            settings,
            timeout_s=settings.submit_timeout_s,
            submits=2 * settings.gateway_submits,  # recovery may resubmit messages of the other lane
            part=part,
            binds=binds,
        )
        clearance = Clearance(
            subject_keys=held.subject_keys,
            field_keys=held.field_keys,
            traffic=traffic,
            policy=policy,
            limits=limits_of(settings),
            permit_ttl_s=settings.permit_ttl_s,
            link_keys=held.link_keys,
            budget=Budget(held.allowances, settings.limited),
            prices=settings.price_table,
            oldest_of=settings.partitions if held.subject_keys.older else None,
        )
        handoff = Handoff(held.database, traffic, clearance, settings.gateway_submits)
        intake = Intake(
            clearance,
            handoff,
            batch=settings.intake_batch,
            partitions=settings.partitions,
            settle_s=settings.marketing_settle_s,
        )
        timers = Timers(
            held.database,
            clearance,
            handoff,
            batch=settings.intake_batch,
            partitions=settings.own_partitions,
            sending_timeout=timeout,
        )
        return handoff, intake, timers

    def background(held: Resources[Settings]) -> Background:
        handoff, intake, timers = sending(held, Lane.MARKETING, 1 - CODES_PART)
        checker = Checker(held.database, settings.policy, limits_of(settings), timeout)
        comparing = Comparing(held.shards, held.subject_keys.outer_key_id)
        compares = held.shards.own is held.shards.first
        erasing = eraser(held.database, settings.partitions)
        told_after = timedelta(seconds=settings.hold_told_after_s)
        freshness = Freshness(held.shards, limits_of(settings), told_after)
        return Background(
            subscriptions=[
                intake.campaigns(),
                *receipts.subscriptions(handoff.traffic, told_by, divided=held.shards.divided),
                *([comparing.subscription()] if compares else []),
                erasing.subscription(),
                copier(held.field_keys).subscription(),
            ],
            workers=[
                Worker("hand-off", handoff.watch),
                *handoff.traffic.workers(),
                *timers.workers(),
                checker.worker(),
                *([comparing.worker()] if compares else []),
                freshness.worker(),
                erasing.worker(),
                Pruner(held.database, pruning.policy(settings.keep)).worker(),
            ],
            close=handoff.traffic.close,
        )

    def urgent(held: Resources[Settings]) -> Background:
        handoff, intake, timers = sending(held, Lane.TRANSACTIONAL, CODES_PART)
        return Background(
            subscriptions=[*apply.subscriptions(), intake.codes()],
            workers=[Worker("hand-off of codes", handoff.watch), *handoff.traffic.workers(), timers.codes()],
            close=handoff.traffic.close,
        )

    async def fresh(held: Resources[Settings]) -> str | None:
        return await consent_is_fresh(held, limits_of(settings))

    # stale consent makes a deciding process unready, which stops a roll-out; an API process goes on accepting
    decides = bool(settings.roles & {"worker", "projection"})
    return Service(
        name="dispatch",
        about="Messages: accepted, decided by the gate, handed off, and reported.",
        settings=settings,
        metadata=schema.metadata,
        admitted=lambda held: division.admit(held.shards, settings, {"api"}),
        sealed=SEALED,
        subject_ids={
            projection.subject.c.subject_id: projection.subject.c.subject_id,
            messages.message.c.subject_id: messages.message.c.message_id,
        },
        routers=[accepting.router, reports.router, totals.router, timeline.router, api.router],
        senders_arrive_within_s=accepting.ARRIVES_WITHIN_S,
        background=background,
        projection=urgent,
        more_topics=[
            *(operator_submits(each.account) for each in settings.gateways if each.provider == "kafka"),
            *(topic for name in heard for topic in operator_topics(name)),
        ],
        checks=[fresh] if decides else [],
        body_limits={"/v1/messages": BATCH_BYTES},
        remarks=[consents_are_the_same] if decides else [fresh, consents_are_the_same],
    )
