"""Wire campaign-svc: settings, consumers, workers and routers."""

from datetime import timedelta

from pydantic import Field, model_validator

from campaign import schema
from campaign.api import routes
from campaign.audience import api as segmenting
from campaign.audience import consents, contacts
from campaign.audience import store as audience
from campaign.campaigns import recipients
from campaign.campaigns import store as campaigns
from campaign.conversions import api as converting
from campaign.feed import api as feeding
from campaign.feed import store as feed
from campaign.feed.telling import Telling
from campaign.imports import dry_run, upload, worker
from campaign.imports import store as imports
from campaign.links import redirects
from campaign.links import store as links
from campaign.message import writing
from campaign.planning import holds, progress
from campaign.planning import store as planning
from campaign.planning.planner import Planner
from campaign.preflight import api as pre_flight
from campaign.preflight import store as preflight
from campaign.preflight import test_sends
from campaign.privacy import pruning
from campaign.privacy.copy import copier
from campaign.privacy.erasure import eraser
from campaign.privacy.rectifier import Rectifier
from campaign.results import statistics, timeline
from campaign.senders import registry
from campaign.senders import store as senders
from campaign.senders.own import Own
from campaign.templates import api as templating
from campaign.templates import store as templates
from campaign.webhooks import api as webhooking
from campaign.webhooks import store as webhooks
from campaign.webhooks.sender import Sender
from common import division
from common.privacy.moving import Moves
from common.privacy.pruning import Pruner
from common.privacy.resealing import whole
from common.service import Background, Resources, Service
from common.settings import PricedSettings
from common.settings.shards import SlottedSettings

# modules defining tables, beside `audience.attributes` and `audience.segments`
STORES = (audience, campaigns, feed, imports, links, planning, preflight, recipients, senders, templates, webhooks)


class Settings(SlottedSettings, PricedSettings):
    import_max_bytes: int = Field(200_000_000, ge=1)
    """The largest file of contacts: about five million lines."""
    request_chunk: int = Field(16_000, ge=1, le=20_000)
    """Recipients that the planner asks for in a transaction."""
    outbox_backlog: int = Field(192, ge=1)
    """The planner waits above so many unpublished rows."""
    repeat_after_s: float = Field(900, ge=1, le=21_600)
    """A requested recipient without a report is requested again after so long."""
    rate_per_s: float | None = Field(None, gt=0)
    """Messages that the operator accepts, for the forecast of a campaign's duration."""
    link_days: int = Field(30, ge=1, le=365)
    """A short link leads on for so long after the campaign's end."""
    webhooks_private: bool = False
    """Webhooks may go to private addresses, and without TLS: development only."""
    keep: pruning.Periods = pruning.Periods()
    """Retention periods, an object with the fields of `Periods`: docs/retention.md."""

    @model_validator(mode="after")
    def _a_link_is_kept_while_it_leads_on(self) -> "Settings":
        if self.keep.recipients_days < self.link_days:
            raise ValueError(
                "keep.recipients_days must not be below link_days, or links are gone that people still open"
            )
        return self


SEALED = (
    whole("contact", "number", "number:{subject_id}"),
    whole("import_piece", "body", "import:{import_id}:{position}", binary=True),
    whole("webhook", "secrets", "webhook:{webhook_id}"),
)

MOVES = Moves(before=recipients.LET_ALL_WAIT)


def build(settings: Settings | None = None) -> Service[Settings]:
    settings = settings or Settings()

    def background(held: Resources[Settings]) -> Background:
        planner = Planner(
            held.database,
            held.field_keys,
            held.link_keys,
            settings.policy,
            partitions=settings.partitions,
            chunk=settings.request_chunk,
            backlog=settings.outbox_backlog,
            repeat_after=timedelta(seconds=settings.repeat_after_s),
        )
        own = Own(held.shards, settings.places)
        part = held.shards.own_part
        erasing = eraser(held.database, part)
        return Background(
            subscriptions=[
                registry.subscription(),
                consents.subscription(own),
                progress.subscription(own),
                holds.subscription(),
                erasing.subscription(),
                copier(held.field_keys, part).subscription(),
                Rectifier(held.field_keys, held.link_keys, settings.policy, part).subscription(),
            ],
            workers=[
                *planner.workers(),
                worker.worker(held),
                erasing.worker(),
                Pruner(held.database, pruning.policy(settings.keep)).worker(),
            ],
        )

    def projection(held: Resources[Settings]) -> Background:
        """Return the event feed and its webhooks: neither waits for campaigns, nor campaigns for them."""
        sender = Sender(held.database, held.field_keys, held.edge_ids, private=settings.webhooks_private)
        applied = consents.Applied(oldest_of=settings.partitions if held.subject_keys.older else None)
        return Background(
            subscriptions=Telling(applied, Own(held.shards, settings.places)).subscriptions(), workers=[sender.worker()]
        )

    return Service(
        name="campaign",
        about="Contacts, segments, campaigns with their pre-flight and results, and templates.",
        settings=settings,
        metadata=schema.metadata,
        admitted=lambda held: division.admit(held.shards, settings, {"api", "worker"}),
        sealed=SEALED,
        subject_ids={audience.standing.c.subject_id: audience.standing.c.subject_id},
        routers=[
            routes.router,
            contacts.router,
            segmenting.of_contacts,
            converting.router,
            upload.router,
            dry_run.router,
            pre_flight.router,
            segmenting.router,
            test_sends.router,
            templating.router,
            writing.router,
            statistics.router,
            timeline.router,
            redirects.pages,
            feeding.router,
            webhooking.router,
        ],
        background=background,
        projection=projection,
        body_limits={"/v1/imports": None},  # import_max_bytes applies
        senders_arrive_within_s=registry.ARRIVE_WITHIN_S,
    )
