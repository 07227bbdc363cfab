"""Wire consent-svc: routes, subscriptions, workers, and the ceiling of the watermark."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cached_property, partial
from pathlib import Path

from pydantic import Field, model_validator
from sqlalchemy.ext.asyncio import AsyncConnection

from common import division
from common.contracts import INBOUND_MESSAGES
from common.kafka.reading.offsets import applied_watermark, applied_watermarks
from common.keyring import FieldKeys
from common.privacy import stop_link
from common.privacy.moving import Moves
from common.privacy.pruning import Pruner
from common.privacy.resealing import whole
from common.service import Background, Resources, Service
from common.settings import HoursSettings, KeyRingSettings
from common.settings.shards import ShardedSettings
from consent import api, checks, timeline
from consent.answers.answers import Answers
from consent.double_opt_in import api as sign_up
from consent.double_opt_in import requests as double_opt_ins
from consent.double_opt_in.rules import Most
from consent.eraser import eraser
from consent.imports import dry_run, reconciliations
from consent.imports import upload as imports
from consent.imports.worker import Importing
from consent.inbound import clicks, shared_codes
from consent.inbound import messages as intake
from consent.inbound import opt_out_receipts as receipts
from consent.inbound.elsewhere import Elsewhere
from consent.inbound.messages import Intake
from consent.ledger import store, term_store
from consent.opt_outs import api as opt_outs
from consent.page import api as links_to_page
from consent.page import confirm, preferences, stop
from consent.page import routes as page
from consent.proof import api as proofs
from consent.proof import reports, retroactive, sealing, summing
from consent.proof.settling import Settling
from consent.retention import endings, expiring, interactions, ledger_end, pruning
from consent.retention.renewals import Asking
from consent.rights import api as rights
from consent.rights import copies, erasures, rectifications
from consent.schema import metadata
from consent.senders import api as registry
from consent.senders import names, reopening
from consent.senders.copying import Compared, Mending
from consent.senders.registry import StopPages
from consent.senders.store import Taken

BATCH_BYTES = 4 * 1024 * 1024  # a thousand opt-ins, each with the text shown


class Settings(ShardedSettings, HoursSettings, page.PageSettings, imports.ImportSettings):
    signing_keys: KeyRingSettings
    """The key ring of receipts: Ed25519 seeds, the current key signs."""
    answers_per_day: int = Field(5, ge=1)
    """Answers by SMS to a person; ends a loop of machines."""
    answers_of_organisation_per_day: int = Field(4, ge=1)
    """Of `answers_per_day`, the answers caused by calls of one organisation."""
    double_opt_ins_per_number_day: int = Field(3, ge=1)
    """Questions of a controller to a number: so many at once, then at pace."""
    double_opt_ins_per_number_month: int = Field(6, ge=1)
    """Questions of a controller to a number in a month."""
    double_opt_ins_per_controller_hour: int = Field(1000, ge=1)
    """Questions of a controller in an hour."""
    double_opt_ins_per_caller_hour: int = Field(1000, ge=1)
    """Questions of a caller in an hour."""
    double_opt_ins_of_all_per_number_day: int = Field(5, ge=1)
    """Questions of all controllers to a number, above the controllers' own paces. Further questions are dropped without
    a word to the caller.
    """
    double_opt_ins_of_all_per_number_month: int = Field(20, ge=1)
    """Questions of all controllers to a number in a month, dropped in the same way."""
    double_opt_ins_of_organisation_per_number_day: int = Field(4, ge=1)
    """Of these, the questions of one organisation in a day, dropped in the same way."""
    double_opt_ins_of_organisation_per_number_month: int = Field(15, ge=1)
    """Of these, the questions of one organisation in a month, dropped in the same way."""
    double_opt_in_after_stop_days: int = Field(30, ge=1)
    """After a STOP, a controller asks a person once in so many days."""
    last_message_days: int = Field(shared_codes.LAST_MESSAGE_DAYS, ge=1)
    """A message of the last so many days explains a STOP on a shared code."""
    erasure_late_after_s: float = Field(86_400.0, gt=0)
    """An erasure counts as late after so long; the law allows a month."""
    seal_every_s: float = Field(5.0, gt=0)
    """The interval of seals without a backlog."""
    sum_every_s: float = Field(21_600.0, gt=0)
    """The interval of the projection's checksum."""
    import_backlog: int = Field(2000, ge=1)
    """Imports and expiries wait above so many unpublished events."""
    retired_signing_keys: dict[str, str] = Field(default_factory=dict)
    """Former signing keys, still published: key id to `x` of the key set."""
    protected_names: Path | None = None
    """The file of AF2M's whole lists, in the form of `consent/senders/names-1.json`."""
    shared_codes: frozenset[str] = frozenset()
    """STOP codes that every organisation may use."""
    codes_per_organisation: int = Field(20, ge=1)
    """Different STOP codes of an organisation, former codes too, without shared codes."""
    names_per_organisation: int = Field(200, ge=1)
    """OADCs, brands and legal names of an organisation, former names too."""
    keep: pruning.Periods = pruning.Periods()
    """Retention periods, an object with the fields of `Periods`: docs/retention.md."""

    @cached_property
    def blocked_names(self) -> names.Blocked:
        """Return the names that operators block, read at the start, which an unreadable file stops."""
        files = [names.FILE.read_bytes(), *([self.protected_names.read_bytes()] if self.protected_names else [])]
        return names.blocked(*files)

    @model_validator(mode="after")
    def _the_names_can_be_read(self) -> "Settings":
        try:
            assert self.blocked_names.lists
        except OSError as error:
            raise ValueError(f"protected_names: {error.strerror}") from error
        return self


def answers(settings: Settings, keys: FieldKeys) -> Answers:
    share = settings.answers_of_organisation_per_day
    return Answers(keys, settings.answers_per_day, settings.fictional_numbers, share)


def links(held: Resources[Settings]) -> intake.Links | None:
    settings = held.settings
    if settings.page_url is None:
        return None
    make = partial(links_to_page.link_in_answer, held.link_keys, settings.page_url)
    return intake.Links(make, timedelta(days=settings.link_days))


def terms(settings: Settings) -> double_opt_ins.Terms:
    return double_opt_ins.Terms(
        number_a_day=settings.double_opt_ins_per_number_day,
        number_a_month=settings.double_opt_ins_per_number_month,
        controller_an_hour=settings.double_opt_ins_per_controller_hour,
        caller_an_hour=settings.double_opt_ins_per_caller_hour,
        after_stop=timedelta(days=settings.double_opt_in_after_stop_days),
        most=Most(settings.double_opt_ins_of_all_per_number_day, settings.double_opt_ins_of_all_per_number_month),
        share=Most(
            settings.double_opt_ins_of_organisation_per_number_day,
            settings.double_opt_ins_of_organisation_per_number_month,
        ),
    )


SEALED = (
    whole("subject", "number", "number:{subject_id}"),
    whole("double_opt_in", "number", "number:{subject_id}"),
    whole("preference_link", "number", "number:{subject_id}"),
    whole("rectification", "asked", "rectification:{rectification_id}"),
    whole("copy_part", "items", "copy:{copy_id}:{service}:{place}{shard}"),
    whole("import_file", "rest", "import:{import_id}:rest", binary=True),
    whole("import_piece", "body", "import:{import_id}:{position}", binary=True),
)

MOVES = Moves(unless=division.DIVIDED, before=term_store.BEGIN_ANEW)


def build(settings: Settings | None = None) -> Service[Settings]:
    """Build the service.

    The watermark of a partition never passes the instant up to which consent-svc has applied the MOs of its people: by
    the clock alone, a STOP still on the way would count as read (ADR-0004). While ids are moved to another outer key,
    the MO of a person may be in any partition. A shard applies the MOs of its own partitions.
    """
    settings = settings or Settings()
    partitions = settings.own_partitions
    compared = Compared()
    is_moving = len(settings.subject_keys.outer.keys) > 1

    async def read_up_to(session: AsyncConnection) -> datetime | None:
        return await applied_watermark(session, intake.GROUP, INBOUND_MESSAGES, partitions, alone=True)

    async def ceiling(session: AsyncConnection) -> Mapping[int, datetime]:
        if is_moving:
            oldest = await read_up_to(session)
            return {} if oldest is None else dict.fromkeys(partitions, oldest)
        return await applied_watermarks(session, intake.GROUP, INBOUND_MESSAGES)

    async def admitted(held: Resources[Settings]) -> None:
        await division.admit(held.shards, settings, {"api", "worker"})
        if settings.roles & {"api", "worker"}:
            await Mending(held.shards, compared).begin()

    async def registry_is_whole(held: Resources[Settings]) -> str | None:
        return compared.told()

    return Service(
        name="consent",
        about="Consents with their proof, opt-outs, senders, and the rights of a person.",
        settings=settings,
        metadata=metadata,
        admitted=admitted,
        sealed=SEALED,
        subject_ids={store.subject.c.subject_id: store.subject.c.subject_id},
        routers=[
            api.one_by_one(),
            api.router,
            opt_outs.router,
            timeline.router,
            registry.router(
                settings.blocked_names,
                settings.shared_codes,
                settings.policy,
                settings.page_url,
                Taken(settings.codes_per_organisation, settings.names_per_organisation),
            ),
            reopening.router,
            interactions.router,
            endings.router,
            checks.router,
            imports.router,
            dry_run.router,
            links_to_page.router(partial(answers, settings)),
            page.pages,
            confirm.pages,
            stop.pages,
            preferences.pages,
            reconciliations.router,
            reports.router,
            rights.router,
            sign_up.router(terms(settings), partial(answers, settings), confirm.url if settings.page_url else None),
            proofs.router(settings.signing_keys, settings.retired_signing_keys, settings.keep.handed_off),
        ],
        background=lambda held: Background(
            subscriptions=[
                Mending(held.shards, compared).behind(
                    Intake(
                        held.field_keys,
                        held.subject_keys,
                        answers(settings, held.field_keys),
                        links(held),
                        settings.last_message_days,
                        Elsewhere.of(held),
                    ).subscription()
                ),
                receipts.Receipts(
                    held.field_keys, held.subject_keys, settings.last_message_days, Elsewhere.of(held)
                ).subscription(),
                clicks.subscription(held.subject_keys.inner),
                erasures.answers,
                copies.parts,
                rectifications.answers,
            ],
            workers=[
                eraser(
                    held.database, None if held.shards.own is held.shards.first else held.shards.first.database
                ).worker(),
                copies.Forgetting(held.database).worker(),
                double_opt_ins.Lapsing(held.database, read_up_to, held.subject_keys.inner).worker(),
                rectifications.Waiting(held.database).worker(),
                *StopPages(held.shards, settings.page_url).workers(),
                *Mending(held.shards, compared).workers(),
                erasures.Lateness(held.database, timedelta(seconds=settings.erasure_late_after_s)).worker(),
                expiring.Expiring(
                    held.database,
                    read_up_to,
                    Asking(answers(settings, held.field_keys), settings.policy),
                    settings.import_backlog,
                ).worker(),
                expiring.Recount(held.database, settings.import_backlog).worker(),
                retroactive.Looking(held.database).worker(),
                sealing.Sealing(held.database, settings.seal_every_s, Settling(held.database, "evidence")).worker(),
                ledger_end.Ending(held.database, settings.keep.ledger).worker(),
                *summing.Summing(held.shards, settings.sum_every_s).workers(),
                *Importing(held, backlog=settings.import_backlog).workers(),
                Pruner(held.database, pruning.policy(settings.keep)).worker(),
            ],
        ),
        ceiling=ceiling,
        senders_are_copied=True,
        # a process of the api stays ready: a STOP arrives there
        checks=[] if "api" in settings.roles else [registry_is_whole],
        remarks=[registry_is_whole] if "api" in settings.roles else [],
        body_limits={
            "/v1/consents/batch": BATCH_BYTES,
            "/v1/interactions": BATCH_BYTES,
            "/v1/reconciliations": reconciliations.LIST_BYTES,
            "/v1/imports/": None,  # an upload streams in pieces
            page.PATH: page.FORM_BYTES,
            confirm.PATH: page.FORM_BYTES,
            stop_link.PATH: page.FORM_BYTES,
            stop_link.PREFERENCES_PATH: page.FORM_BYTES,
        },
    )
