"""The resources of the client, a method for each operation of the services.

Written by `make client` from the OpenAPI documents: edit the services, not this file.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal
from uuid import UUID

from placet_client.answer import Page
from placet_client.answers import campaign, consent, dispatch, inbound
from placet_client.bodies import campaign as campaign_bodies
from placet_client.bodies import consent as consent_bodies
from placet_client.bodies import dispatch as dispatch_bodies
from placet_client.operation import Resource, S, download, listing, operation
from placet_client.request import OMITTED, Omitted, Request, Service
from placet_client.upload import Uploads


class Approvals(Resource[S]):
    """The approvals."""

    @operation
    def create(
        self, campaign_id: str, *, digest: str, at: dt.datetime | Omitted | None = OMITTED
    ) -> Request[campaign.Approval]:
        """Approve the campaign as the pre-flight with this `digest` showed, to start at `at`.

        The approver must not have written any part of the campaign (403). A later change of text, audience,
        sender or start voids the approval. Answers 409 where the digest no longer matches, or the campaign has
        started or ended.

        `at`: The start to forecast. Default: at once.

        `digest`: The digest of the pre-flight for the same `at`.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/campaigns/{campaign_id}/approvals",
            answer=campaign.Approval,
            names={"campaign_id": campaign_id},
            body={"at": at, "digest": digest},
        )

    @listing
    def list(
        self, campaign_id: str, *, cursor: str | Omitted = OMITTED, limit: int | Omitted = OMITTED
    ) -> Request[Page[campaign.Approval]]:
        """List the approvals of the campaign, oldest first. An approval from before an edit has no effect.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "campaign",
            "/v1/campaigns/{campaign_id}/approvals",
            answer=Page[campaign.Approval],
            names={"campaign_id": campaign_id},
            query={"cursor": cursor, "limit": limit},
        )


class Attributes(Resource[S]):
    """The attributes."""

    @operation
    def get(self, sender_id: str) -> Request[dict[str, Literal["text", "number", "date", "boolean"] | str]]:
        """Return the kind of each attribute, declared or inferred."""
        return Request(
            "GET",
            "campaign",
            "/v1/senders/{sender_id}/attributes",
            answer=dict[str, Literal["text", "number", "date", "boolean"] | str],
            names={"sender_id": sender_id},
        )

    @operation
    def declare(
        self, sender_id: str, name: str, *, kind: Literal["text", "number", "date", "boolean"]
    ) -> Request[campaign.Declared]:
        """Declare an attribute's kind, before or after its first value. Saved segments keep the earlier kind.

        `kind`: `number` of at most 15 digits and 6 decimals, `date`, `boolean` or `text`. New values of another
        kind are refused. Stored values stay, and no comparison matches a stored value of another kind.
        """
        return Request(
            "PUT",
            "campaign",
            "/v1/senders/{sender_id}/attributes/{name}",
            answer=campaign.Declared,
            names={"sender_id": sender_id, "name": name},
            body={"kind": kind},
        )


class Audit(Resource[S]):
    """The audit."""

    @listing
    def list(
        self,
        service: Service,
        *,
        cursor: str | Omitted = OMITTED,
        limit: int | Omitted = OMITTED,
        caller: str | Omitted = OMITTED,
        subject_id: str | Omitted = OMITTED,
        kind: Literal["read", "export", "proof", "decision", "call"] | Omitted = OMITTED,
        since: dt.datetime | Omitted = OMITTED,
    ) -> Request[Page[consent.AuditLine]]:
        """List the calls about people, the oldest first: who read, exported, decided, and who was refused.

        An organisation sees its own callers. The platform's operator sees all, and can check the chain.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.

        `caller`: Only calls of this account, by `sub`.

        `subject_id`: Only calls about this person, by the id with the controller.

        `kind`: Only calls of this kind.

        `since`: Only calls since this instant.
        """
        return Request(
            "GET",
            service,
            "/v1/audit",
            answer=Page[consent.AuditLine],
            query={
                "cursor": cursor,
                "limit": limit,
                "caller": caller,
                "subject_id": subject_id,
                "kind": kind,
                "since": since,
            },
        )

    @download
    def export(
        self,
        service: Service,
        *,
        caller: str | Omitted = OMITTED,
        subject_id: str | Omitted = OMITTED,
        kind: Literal["read", "export", "proof", "decision", "call"] | Omitted = OMITTED,
        since: dt.datetime | Omitted = OMITTED,
    ) -> Request[bytes]:
        """Export the calls about people as JSON lines, the oldest first, each as `GET /v1/audit` has it.

        `caller`: Only calls of this account, by `sub`.

        `subject_id`: Only calls about this person, by the id with the controller.

        `kind`: Only calls of this kind.

        `since`: Only calls since this instant.
        """
        return Request(
            "GET",
            service,
            "/v1/audit.jsonl",
            query={"caller": caller, "subject_id": subject_id, "kind": kind, "since": since},
        )


class Campaigns(Resource[S]):
    """The campaigns."""

    @operation
    def create(
        self,
        *,
        sender_id: str,
        name: str,
        purpose: str,
        text: str,
        audience: campaign_bodies.Audience,
        language: str | Omitted = OMITTED,
        translations: Mapping[str, str] | Omitted = OMITTED,
        folding: Literal["none", "typographic", "accents", "names"] | Omitted = OMITTED,
        sectors: Sequence[Literal["energy", "alcohol", "gambling", "tobacco", "credit"]] | Omitted = OMITTED,
        rest_days: int | Omitted | None = OMITTED,
        send_before: dt.datetime | Omitted | None = OMITTED,
        timing: campaign_bodies.Timing | Omitted = OMITTED,
        recurring: campaign_bodies.Recurring | Omitted | None = OMITTED,
        trial: campaign_bodies.Trial | Omitted | None = OMITTED,
        priority: Literal["high", "normal", "low"] | Omitted = OMITTED,
        idempotency_key: str | None = None,
    ) -> Request[campaign.Campaign]:
        """Create a draft.

        A repeat of the request with the same `Idempotency-Key` gets the first answer: the draft as it was
        created.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `name`: The name of the campaign, for the people who work on it: no message shows the name.

        `purpose`: A purpose of the sender.

        `text`: {attribute}, {attribute|default}, {if attribute = value}…{else}…{end}, {link https://…} for a
        short link with counted clicks, {stop} for « STOP au » with the sender's code, and {preferences} for a
        personal link to the preference page.

        `language`: The language of `text`, for contacts without a `language` or without a translation.

        `translations`: The text in other languages, for contacts with that `language`.

        `folding`: Replace characters outside GSM-7 by similar characters: quotes and dashes (`typographic`),
        also accents in the text (`accents`), also accents in contacts' attributes (`names`).
        `/v1/texts/preview` shows the changes.

        `sectors`: The product advertised, if the law has rules for the product.

        `rest_days`: Leave out contacts with a message from the sender's campaigns within so many days.

        `send_before`: Messages expire at this instant; default: three days after the start.

        `timing`: Due times and pace of the messages.

        `recurring`: The rule of a recurring campaign. Each occurrence is a campaign with an audience of its
        own, and its messages expire at the next occurrence. Times of day are in the sender's time zone.

        `trial`: An A/B test: other texts for a part of the audience, a holdout, and the choice of the best
        text.

        `priority`: Priority among campaigns under way: the next higher priority requests four recipients for
        each recipient of this priority.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/campaigns",
            answer=campaign.Campaign,
            body={
                "sender_id": sender_id,
                "name": name,
                "purpose": purpose,
                "text": text,
                "language": language,
                "translations": translations,
                "folding": folding,
                "sectors": sectors,
                "audience": audience,
                "rest_days": rest_days,
                "send_before": send_before,
                "timing": timing,
                "recurring": recurring,
                "trial": trial,
                "priority": priority,
            },
            keyed=True,
            idempotency_key=idempotency_key,
        )

    @listing
    def list(
        self,
        *,
        sender_id: str | Omitted = OMITTED,
        status: Literal["draft", "scheduled", "running", "paused", "finished", "cancelled"] | Omitted = OMITTED,
        series_id: str | Omitted = OMITTED,
        archived: bool | Omitted = OMITTED,
        sort: Literal["newest", "oldest"] | Omitted = OMITTED,
        cursor: str | Omitted = OMITTED,
        limit: int | Omitted = OMITTED,
    ) -> Request[Page[campaign.Campaign]]:
        """List the campaigns of the senders your token covers, without the archived campaigns.

        The order is that of the creation. `series_id` limits the list to the occurrences of a recurring
        campaign. A campaign whose stored content cannot be read is missing from its page; the log of
        campaign-svc holds the error under the campaign's id.

        `sender_id`: Only things of this sender. Default: of every sender.

        `status`: Only campaigns in this state.

        `series_id`: Only occurrences of this recurring campaign, by its id.

        `archived`: True: the archived campaigns in place of the others.

        `sort`: The first item: the newest, or the oldest. Name the same with a cursor. With `oldest`, an item
        written while its page is read may be on no page; `GET /v1/events` tells of new things.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "campaign",
            "/v1/campaigns",
            answer=Page[campaign.Campaign],
            query={
                "sender_id": sender_id,
                "status": status,
                "series_id": series_id,
                "archived": archived,
                "sort": sort,
                "cursor": cursor,
                "limit": limit,
            },
        )

    @operation
    def get(self, campaign_id: str) -> Request[campaign.Campaign]:
        """Return a campaign.

        The `ETag` covers the campaign's content and schedule; send the tag as `If-Match` when editing.
        """
        return Request(
            "GET",
            "campaign",
            "/v1/campaigns/{campaign_id}",
            answer=campaign.Campaign,
            names={"campaign_id": campaign_id},
        )

    @operation
    def update(
        self,
        campaign_id: str,
        *,
        sender_id: str,
        name: str,
        purpose: str,
        text: str,
        audience: campaign_bodies.Audience,
        if_match: str | Omitted = OMITTED,
        language: str | Omitted = OMITTED,
        translations: Mapping[str, str] | Omitted = OMITTED,
        folding: Literal["none", "typographic", "accents", "names"] | Omitted = OMITTED,
        sectors: Sequence[Literal["energy", "alcohol", "gambling", "tobacco", "credit"]] | Omitted = OMITTED,
        rest_days: int | Omitted | None = OMITTED,
        send_before: dt.datetime | Omitted | None = OMITTED,
        timing: campaign_bodies.Timing | Omitted = OMITTED,
        recurring: campaign_bodies.Recurring | Omitted | None = OMITTED,
        trial: campaign_bodies.Trial | Omitted | None = OMITTED,
        priority: Literal["high", "normal", "low"] | Omitted = OMITTED,
    ) -> Request[campaign.Campaign]:
        """Replace the content of a campaign not yet started.

        A scheduled campaign becomes a draft again, and approvals of earlier content no longer count. Without
        `If-Match`, the edit overwrites changes made by others in the meantime.

        `if_match`: The `ETag` of the version to edit. 412 after a change by another caller; the edit has no
        effect.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `name`: The name of the campaign, for the people who work on it: no message shows the name.

        `purpose`: A purpose of the sender.

        `text`: {attribute}, {attribute|default}, {if attribute = value}…{else}…{end}, {link https://…} for a
        short link with counted clicks, {stop} for « STOP au » with the sender's code, and {preferences} for a
        personal link to the preference page.

        `language`: The language of `text`, for contacts without a `language` or without a translation.

        `translations`: The text in other languages, for contacts with that `language`.

        `folding`: Replace characters outside GSM-7 by similar characters: quotes and dashes (`typographic`),
        also accents in the text (`accents`), also accents in contacts' attributes (`names`).
        `/v1/texts/preview` shows the changes.

        `sectors`: The product advertised, if the law has rules for the product.

        `rest_days`: Leave out contacts with a message from the sender's campaigns within so many days.

        `send_before`: Messages expire at this instant; default: three days after the start.

        `timing`: Due times and pace of the messages.

        `recurring`: The rule of a recurring campaign. Each occurrence is a campaign with an audience of its
        own, and its messages expire at the next occurrence. Times of day are in the sender's time zone.

        `trial`: An A/B test: other texts for a part of the audience, a holdout, and the choice of the best
        text.

        `priority`: Priority among campaigns under way: the next higher priority requests four recipients for
        each recipient of this priority.
        """
        return Request(
            "PUT",
            "campaign",
            "/v1/campaigns/{campaign_id}",
            answer=campaign.Campaign,
            names={"campaign_id": campaign_id},
            headers={"if-match": if_match},
            body={
                "sender_id": sender_id,
                "name": name,
                "purpose": purpose,
                "text": text,
                "language": language,
                "translations": translations,
                "folding": folding,
                "sectors": sectors,
                "audience": audience,
                "rest_days": rest_days,
                "send_before": send_before,
                "timing": timing,
                "recurring": recurring,
                "trial": trial,
                "priority": priority,
            },
        )

    @operation
    def schedule(
        self,
        campaign_id: str,
        *,
        at: dt.datetime | Omitted | None = OMITTED,
        acknowledge: Sequence[str] | Omitted = OMITTED,
    ) -> Request[campaign.Campaign]:
        """Schedule the campaign to start at `at`, or now. A campaign not yet started may be rescheduled.

        Scheduling checks the texts, and applies the audience findings of the last pre-flight if the campaign is
        unchanged since. The request is refused on an error, on a warning missing from `acknowledge`, or on a
        missing approval.

        `at`: Default: now. Required with `timing.local_time`.

        `acknowledge`: Ids of the pre-flight's warnings. Scheduling needs all of them.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/campaigns/{campaign_id}/schedule",
            answer=campaign.Campaign,
            names={"campaign_id": campaign_id},
            body={"at": at, "acknowledge": acknowledge},
        )

    @operation
    def pause(self, campaign_id: str) -> Request[campaign.Campaign | campaign.UnreadableCampaign]:
        """Pause the campaign: the gate hands nothing off once the pause has reached the gate.

        Messages decided in the meantime wait for `resume`. A scheduled campaign does not start, even where the
        audience is already being selected. Pausing a recurring campaign stops new occurrences, and pauses those
        scheduled or running.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/campaigns/{campaign_id}/pause",
            answer=campaign.Campaign | campaign.UnreadableCampaign,
            names={"campaign_id": campaign_id},
        )

    @operation
    def resume(self, campaign_id: str) -> Request[campaign.Campaign]:
        """Resume a paused campaign.

        A campaign paused before its start begins at its time, or at once if the time has passed. The request is
        refused with `campaign-over` where no message could leave before the end: schedule the campaign again. A
        recurring campaign begins the last occurrence held by the pause, unless the next has come or the
        occurrence has ended.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/campaigns/{campaign_id}/resume",
            answer=campaign.Campaign,
            names={"campaign_id": campaign_id},
        )

    @operation
    def cancel(self, campaign_id: str) -> Request[campaign.Campaign | campaign.UnreadableCampaign]:
        """Cancel the campaign for good.

        Recipients not yet reached get no message; messages already with the operator cannot be recalled.
        Recipients not yet requested stay `pending` for some seconds, then become `denied`. A cancelled
        recurring campaign has no more occurrences, and occurrences paused together with the campaign are
        cancelled too.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/campaigns/{campaign_id}/cancel",
            answer=campaign.Campaign | campaign.UnreadableCampaign,
            names={"campaign_id": campaign_id},
        )

    @operation
    def archive(self, campaign_id: str) -> Request[campaign.Campaign]:
        """Archive a draft, or a campaign that has ended: lists leave an archived campaign out.

        Nothing else changes: statistics, exports and proofs stay. An edit or a schedule brings a draft back.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/campaigns/{campaign_id}/archive",
            answer=campaign.Campaign,
            names={"campaign_id": campaign_id},
        )

    @operation
    def unarchive(self, campaign_id: str) -> Request[campaign.Campaign]:
        """Bring an archived campaign back to the lists."""
        return Request(
            "POST",
            "campaign",
            "/v1/campaigns/{campaign_id}/unarchive",
            answer=campaign.Campaign,
            names={"campaign_id": campaign_id},
        )

    @operation
    def get_variants(self, campaign_id: str) -> Request[campaign.Variants]:
        """Return the results so far of each text of an A/B test, including the campaign's own text.

        People held out count among the campaign's denied recipients, with the reason `holdout`.
        """
        return Request(
            "GET",
            "campaign",
            "/v1/campaigns/{campaign_id}/variants",
            answer=campaign.Variants,
            names={"campaign_id": campaign_id},
        )

    @listing
    def list_recipients(
        self,
        campaign_id: str,
        *,
        status: Literal["pending", "denied", "deferred", "sending", "accepted", "rejected", "unknown", "expired"]
        | Omitted = OMITTED,
        cursor: str | Omitted = OMITTED,
        limit: int | Omitted = OMITTED,
    ) -> Request[Page[campaign.Recipient]]:
        """List the frozen audience, with each recipient's status and reasons.

        The order is the same in each reading, and means nothing.

        Answers 410 once the recipients are no longer kept, months after the campaign's end. The tallies on the
        campaign stay.

        `status`: Only recipients whose message has this status.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "campaign",
            "/v1/campaigns/{campaign_id}/recipients",
            answer=Page[campaign.Recipient],
            names={"campaign_id": campaign_id},
            query={"status": status, "cursor": cursor, "limit": limit},
        )


class ConsentImports(Uploads[S]):
    """Imports of consents and suppression lists (consent-svc)."""

    _service: Service = "consent"
    _import = consent.Import

    @operation
    def create(
        self,
        *,
        kind: Literal["consents", "suppressions"],
        sender_id: str | None,
        format: Literal["csv", "ndjson"],
        evidence: consent_bodies.EvidenceBody,
        upload_length: int | Omitted = OMITTED,
        purpose: str | Omitted | None = OMITTED,
        basis: Literal["opt_in", "soft_opt_in", "non_commercial"] | Omitted = OMITTED,
        occurred_at: dt.datetime | Omitted | None = OMITTED,
        country: str | Omitted | None = OMITTED,
        time_zone: str | Omitted | None = OMITTED,
        date_order: Literal["day_first", "month_first"] | Omitted | None = OMITTED,
        other_columns: Literal["refuse", "ignore"] | Omitted = OMITTED,
        idempotency_key: str | None = None,
    ) -> Request[consent.Import]:
        """Open an import, or return the first answer to the request that opened an import under this
        Idempotency-Key.

        The file itself goes to the import's `Location`.

        `upload_length`: Bytes of the whole file, once known.

        `kind`: `consents`: opt-ins, and opt-outs on their lines. `suppressions`: opt-outs alone.

        `sender_id`: Null only for suppressions: every sender.

        `format`: The format of the file, in UTF-8, UTF-16, Windows-1252 or ISO-8859-15.

        `purpose`: The purpose of opt-ins and suppressions; null: each line names its own. A suppression without
        a purpose is of every purpose.

        `basis`: The basis of opt-ins whose line names none.

        `occurred_at`: The date of a suppression list. Default: now.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.

        `time_zone`: The time zone of local dates of a CSV, such as `Europe/Paris`. Without a time zone a date
        needs an offset. A time that the clocks showed twice or never is refused.

        `date_order`: Of dates such as 03/11/2026: `day_first` or `month_first`. Without an order such a date is
        refused unless one of the two numbers can only be a day.

        `other_columns`: Of columns with an unknown title: `refuse` the file, so that a mistyped title of proof
        loses nothing in silence, or `ignore` these columns.
        """
        return Request(
            "POST",
            "consent",
            "/v1/imports",
            answer=consent.Import,
            headers={"Upload-Length": upload_length},
            body={
                "kind": kind,
                "sender_id": sender_id,
                "format": format,
                "purpose": purpose,
                "basis": basis,
                "occurred_at": occurred_at,
                "country": country,
                "time_zone": time_zone,
                "date_order": date_order,
                "other_columns": other_columns,
                "evidence": evidence,
            },
            keyed=True,
            idempotency_key=idempotency_key,
        )

    @listing
    def list(
        self,
        *,
        sender_id: str | Omitted = OMITTED,
        sort: Literal["newest", "oldest"] | Omitted = OMITTED,
        cursor: str | Omitted = OMITTED,
        limit: int | Omitted = OMITTED,
    ) -> Request[Page[consent.Import]]:
        """List the imports of the senders your token covers, or of `sender_id`, by the time of their opening.

        Only the platform's operator sees imports for every sender.

        `sender_id`: Only things of this sender. Default: of every sender.

        `sort`: The first item: the newest, or the oldest. Name the same with a cursor. With `oldest`, an item
        written while its page is read may be on no page; `GET /v1/events` tells of new things.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "consent",
            "/v1/imports",
            answer=Page[consent.Import],
            query={"sender_id": sender_id, "sort": sort, "cursor": cursor, "limit": limit},
        )

    @operation
    def get(self, import_id: str) -> Request[consent.Import]:
        """Return an import's upload and recording progress."""
        return Request(
            "GET", "consent", "/v1/imports/{import_id}", answer=consent.Import, names={"import_id": import_id}
        )

    @download
    def get_verdicts(
        self,
        import_id: str,
        *,
        verdict: Literal["created", "unchanged", "outvoted", "refused"] | Omitted = OMITTED,
        titles: Literal["en", "fr"] | Omitted = OMITTED,
    ) -> Request[bytes]:
        """Return a CSV with each line's verdict by line number, and no phone numbers.

        During recording the CSV ends before the first unrecorded piece.

        `verdict`: Only lines with this verdict.

        `titles`: The language of the header; reasons stay as they are.
        """
        return Request(
            "GET",
            "consent",
            "/v1/imports/{import_id}/verdicts",
            names={"import_id": import_id},
            query={"verdict": verdict, "titles": titles},
        )

    @operation
    def dry_run(self, import_id: str, *, file: bytes) -> Request[consent.DryRun]:
        """Try a file, or its first lines, by the terms of an open import, and store nothing of the file.

        The answer has the first lines as read, the meaning that each column was taken for, and each refusal
        that an import would give before the ledger is asked. Then send the file to the import itself.

        `file`: the file, or its first lines.
        """
        return Request(
            "POST",
            "consent",
            "/v1/imports/{import_id}/dry-run",
            answer=consent.DryRun,
            names={"import_id": import_id},
            headers={"Content-Type": "application/octet-stream"},
            content=file,
            reads=True,
        )


class ConsentTimelines(Resource[S]):
    """The consent timelines."""

    @operation
    def get(
        self, *, number: str, country: str | Omitted | None = OMITTED, limit: int | Omitted = OMITTED
    ) -> Request[consent.Timeline]:
        """Return a person's consents, opt-outs and rights with the senders your token covers.

        Kinds: those of the ledger (`opt_in`, `opt_out`, `request`, `expiry`, `contact`, `correction`), with the
        source; `erasure` and `rectification`, asked of a controller all of whose senders the token covers. An
        opt-out from every sender is a fact, without id and source.

        `number`: A mobile number in any usual notation.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.

        `limit`: Moments at most, the newest ones.
        """
        return Request(
            "POST",
            "consent",
            "/v1/timeline",
            answer=consent.Timeline,
            body={"number": number, "country": country, "limit": limit},
            reads=True,
        )


class Consents(Resource[S]):
    """The consents."""

    @operation
    def create(
        self,
        *,
        sender_id: str,
        purpose: str,
        number: str,
        occurred_at: dt.datetime,
        evidence: consent_bodies.EvidenceBody,
        country: str | Omitted | None = OMITTED,
        basis: Literal["opt_in", "soft_opt_in", "non_commercial"] | Omitted = OMITTED,
        idempotency_key: str | None = None,
    ) -> Request[consent.ConsentAnswer]:
        """Record one opt-in with its proof.

        `changed` is false where the opt-in was on record already, or a newer STOP outweighs the opt-in. After a
        STOP of the person's own (by text, by a stop link, on the preference page or told by the operator), and
        without a reopening rule, only the person opens the consent again: the opt-in is kept as evidence,
        `effective` is false, and `reopens_with` says what would. `Location` names the signed receipt.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `purpose`: The purpose of the consent, by its id with the sender, such as `promotions`.

        `number`: A mobile number in any usual notation. A writing that could be two people's in the countries
        that apply is refused as `ambiguous`.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.

        `basis`: `opt_in`; `soft_opt_in`, for products like those of a sale to the person, which needs
        `sale_reference` (CPCE L34-5); `non_commercial`.

        `occurred_at`: Time at source: when the person opted in, in RFC 3339 with an offset. The newest of
        opt-ins and opt-outs counts; a tie is an opt-out.
        """
        return Request(
            "POST",
            "consent",
            "/v1/consents",
            answer=consent.ConsentAnswer,
            body={
                "sender_id": sender_id,
                "purpose": purpose,
                "number": number,
                "country": country,
                "basis": basis,
                "occurred_at": occurred_at,
                "evidence": evidence,
            },
            keyed=True,
            idempotency_key=idempotency_key,
        )

    @operation
    def create_batch(
        self, *, items: Sequence[consent_bodies.ConsentBody], idempotency_key: str | None = None
    ) -> Request[consent.BatchAnswer]:
        """Record up to 1,000 opt-ins, each decided by itself.

        The verdict `unchanged` covers repeats, and opt-ins which a newer STOP outweighs or a STOP of the
        person's own holds: `effective` tells these apart. 429: too many numbers a minute.

        `items`: The opt-ins, up to 1,000.
        """
        return Request(
            "POST",
            "consent",
            "/v1/consents/batch",
            answer=consent.BatchAnswer,
            body={"items": items},
            keyed=True,
            idempotency_key=idempotency_key,
        )

    @operation
    def check(
        self, *, sender_id: str, purpose: str, numbers: Sequence[str], country: str | Omitted | None = OMITTED
    ) -> Request[consent.CheckAnswer]:
        """Return for each number the state of the consent, whether the sender may write, and every reason against.

        The answer is no permission: dispatch decides when the message leaves. 429: too many numbers a minute.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `purpose`: The purpose of the consent, by its id with the sender, such as `promotions`.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.

        `numbers`: The numbers, up to 10,000, in any usual notation.
        """
        return Request(
            "POST",
            "consent",
            "/v1/consents/check",
            answer=consent.CheckAnswer,
            body={"sender_id": sender_id, "purpose": purpose, "country": country, "numbers": numbers},
            reads=True,
        )


class ContactImports(Uploads[S]):
    """Imports of contacts (campaign-svc)."""

    _service: Service = "campaign"
    _import = campaign.Import

    @operation
    def create(
        self,
        *,
        sender_id: str,
        country: str | Omitted = OMITTED,
        upload_length: int | Omitted = OMITTED,
        upload_defer_length: str | Omitted = "1",
        idempotency_key: str | None = None,
    ) -> Request[campaign.Import]:
        """Import the contacts of a file: CSV with a header row, or NDJSON.

        The first character tells the format (`read_as`). A column or field holds the number, the others are
        attributes. Of several number columns the import takes a mobile's first and drops the others
        (`other_numbers`).

        CSV cells are separated by `,` `;` tab or `|`; the file is UTF-8, UTF-16 or Windows-1252. Known contacts
        keep the attributes absent from the file. Each unusable line is refused with a reason. An unknown
        attribute becomes a number, date or boolean if all its values in the file are such, else text.

        The answer comes when all lines are recorded. `Upload-Length`, or `Upload-Defer-Length: 1`, with an
        empty body opens an import, or gets the first answer under this Idempotency-Key; the file then goes to
        its `Location`. A whole file under the key of an incomplete import restarts the import; the same file
        under the key of a complete import answers the import.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.

        `upload_length`: Bytes of the whole file, once known.

        `upload_defer_length`: `1`: a later part names the length of the file, in `Upload-Length` (tus 1.0,
        creation-defer-length).
        """
        return Request(
            "POST",
            "campaign",
            "/v1/imports",
            answer=campaign.Import,
            query={"sender_id": sender_id, "country": country},
            headers={"Upload-Length": upload_length, "Upload-Defer-Length": upload_defer_length},
            keyed=True,
            idempotency_key=idempotency_key,
        )

    @listing
    def list(
        self,
        *,
        sender_id: str | Omitted = OMITTED,
        sort: Literal["newest", "oldest"] | Omitted = OMITTED,
        cursor: str | Omitted = OMITTED,
        limit: int | Omitted = OMITTED,
    ) -> Request[Page[campaign.Import]]:
        """List the imports of the senders your token covers, by the time of their opening.

        `sender_id`: Only things of this sender. Default: of every sender.

        `sort`: The first item: the newest, or the oldest. Name the same with a cursor. With `oldest`, an item
        written while its page is read may be on no page; `GET /v1/events` tells of new things.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "campaign",
            "/v1/imports",
            answer=Page[campaign.Import],
            query={"sender_id": sender_id, "sort": sort, "cursor": cursor, "limit": limit},
        )

    @operation
    def get(self, import_id: str) -> Request[campaign.Import]:
        """Return how far the file has arrived, and how far its lines are recorded."""
        return Request(
            "GET", "campaign", "/v1/imports/{import_id}", answer=campaign.Import, names={"import_id": import_id}
        )

    @listing
    def list_refusals(
        self, import_id: str, *, cursor: str | Omitted = OMITTED, limit: int | Omitted = OMITTED
    ) -> Request[Page[campaign.Refusal]]:
        """List the refused lines in file order.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "campaign",
            "/v1/imports/{import_id}/refusals",
            answer=Page[campaign.Refusal],
            names={"import_id": import_id},
            query={"cursor": cursor, "limit": limit},
        )

    @operation
    def dry_run(self, import_id: str, *, file: bytes) -> Request[campaign.DryRun]:
        """Try a file, or its first lines, against an open import, and store nothing of the file.

        The answer has the first lines as read, the meaning that each column was taken for, and each refusal
        that the import would give. Then send the file to the import itself.

        `file`: the file, or its first lines.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/imports/{import_id}/dry-run",
            answer=campaign.DryRun,
            names={"import_id": import_id},
            headers={"Content-Type": "application/octet-stream"},
            content=file,
            reads=True,
        )


class ContactTimelines(Resource[S]):
    """The contact timelines."""

    @operation
    def get(
        self, *, number: str, country: str | Omitted | None = OMITTED, limit: int | Omitted = OMITTED
    ) -> Request[campaign.Timeline]:
        """Return what the senders your token covers know of a person: contact, audiences, last clicks and
        conversions.

        Kinds: `contact_created`, `contact_updated`; `audience`, with the recipient's status and reasons, at the
        campaign's start; `click`, the last on a link, with the target; `conversion`, with its value. Each
        timeline is logged with the caller.

        `number`: A mobile number in any usual notation.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.

        `limit`: Moments at most, the newest ones.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/timeline",
            answer=campaign.Timeline,
            body={"number": number, "country": country, "limit": limit},
            reads=True,
        )


class Contacts(Resource[S]):
    """The contacts."""

    @operation
    def put(self, *, sender_id: str, contacts: Sequence[campaign_bodies.NewContact]) -> Request[campaign.Verdicts]:
        """Create or update contacts. A refused contact does not affect the others.

        The first accepted value of an unknown attribute fixes its kind: a JSON number, a JSON boolean, else
        text. Attributes named like phone numbers are dropped (`other_numbers`).

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `contacts`: The contacts: at most 1,000 in a request.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/contacts",
            answer=campaign.Verdicts,
            body={"sender_id": sender_id, "contacts": contacts},
        )

    @listing
    def list(
        self, *, sender_id: str, cursor: str | Omitted = OMITTED, limit: int | Omitted = OMITTED
    ) -> Request[Page[campaign.Contact]]:
        """List the contacts of a sender with their attributes.

        The order is the same in each reading, and means nothing. A contact created while you read the pages is
        on a page, or on none.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "campaign",
            "/v1/contacts",
            answer=Page[campaign.Contact],
            query={"sender_id": sender_id, "cursor": cursor, "limit": limit},
        )

    @operation
    def lookup(
        self,
        *,
        sender_id: str,
        number: str | Omitted | None = OMITTED,
        country: str | Omitted | None = OMITTED,
        subject_id: str | Omitted | None = OMITTED,
    ) -> Request[campaign.Contact]:
        """Return a contact with the attributes, found by the number or by the person's id.

        `number`: A mobile number in any usual notation.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.

        `subject_id`: The person, by the id with the sender's controller (`sub_…`); no answer has the number.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/contacts/lookup",
            answer=campaign.Contact,
            body={"number": number, "country": country, "subject_id": subject_id, "sender_id": sender_id},
            reads=True,
        )

    @operation
    def delete(self, *, sender_id: str, contacts: Sequence[campaign_bodies.Who]) -> Request[campaign.Deleted]:
        """Delete contacts of this sender. Consents stay: erasures and opt-outs go to consent-svc.

        Messages already requested are decided as before.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `contacts`: The contacts: at most 1,000 in a request.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/contacts/delete",
            answer=campaign.Deleted,
            body={"sender_id": sender_id, "contacts": contacts},
        )

    @listing
    def search(
        self,
        *,
        sender_id: str,
        expression: Mapping[str, Any],
        cursor: str | Omitted | None = OMITTED,
        limit: int | Omitted = OMITTED,
    ) -> Request[Page[campaign.Contact]]:
        """List the contacts that an expression selects, in the language of segments.

        A page looks at a part of the contacts: a page may have few items, or none, and still a `next`. The
        scope `campaign:read` is needed too: an expression may ask for consents, messages and clicks.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `expression`: `all`, `any` and `not` of conditions. A condition is on an `attribute` (is, in, exists,
        lt, lte, gt, gte, starts_with, anniversary_in), a `territory`, a `consent` of the sender, messages
        `received`, or links `clicked`. A date may be relative to today: `{"days": -30}`.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/contacts/search",
            answer=Page[campaign.Contact],
            body={"sender_id": sender_id, "expression": expression, "cursor": cursor, "limit": limit},
            reads=True,
        )


class Conversions(Resource[S]):
    """The conversions."""

    @operation
    def create(
        self, *, sender_id: str, conversions: Sequence[campaign_bodies.NewConversion]
    ) -> Request[campaign.ConversionVerdicts]:
        """Record up to 1,000 conversions. A refused conversion does not affect the others.

        Send a request again after a lost answer: a `reference` counts once. Send the conversions of every
        customer, whether a campaign reached the customer or not, or the comparison with the holdout is not
        fair.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `conversions`: The conversions; a refused item does not affect the others.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/conversions",
            answer=campaign.ConversionVerdicts,
            body={"sender_id": sender_id, "conversions": conversions},
        )


class Copies(Resource[S]):
    """The copies."""

    @operation
    def create(
        self,
        *,
        number: str,
        country: str | Omitted | None = OMITTED,
        controller: str | Omitted | None = OMITTED,
        idempotency_key: str | None = None,
    ) -> Request[consent.CopyView]:
        """Gather all data that any service holds about this number for a controller (RGPD art. 15 and 20).

        That the person stopped every sender is part of the copy, as a fact. The copy lasts a week, unless the
        person is erased. The caller has verified the person's identity.

        `number`: A number in any notation with a digit.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.

        `controller`: The controller whose data is meant. Required where the token covers several controllers.
        """
        return Request(
            "POST",
            "consent",
            "/v1/copies",
            answer=consent.CopyView,
            body={"number": number, "country": country, "controller": controller},
            keyed=True,
            idempotency_key=idempotency_key,
        )

    @operation
    def get(self, copy_id: str) -> Request[consent.CopyView]:
        """Return a copy's progress, and its content once complete: JSON, or CSV with a row per value."""
        return Request("GET", "consent", "/v1/copies/{copy_id}", answer=consent.CopyView, names={"copy_id": copy_id})

    @download
    def get_csv(self, copy_id: str) -> Request[bytes]:
        """Return a copy's progress, and its content once complete: JSON, or CSV with a row per value."""
        return Request("GET", "consent", "/v1/copies/{copy_id}", names={"copy_id": copy_id}, query={"format": "csv"})


class DeadLetters(Resource[S]):
    """Records set aside by a service, because no version can read them."""

    @listing
    def list(
        self,
        service: Service,
        *,
        state: Literal["open", "asked", "replayed", "discarded", "gone"] | Omitted = OMITTED,
        cursor: str | Omitted = OMITTED,
        limit: int | Omitted = OMITTED,
    ) -> Request[Page[consent.DeadLetterItem]]:
        """List dead letters, the oldest first.

        `state`: Only dead letters in this state.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            service,
            "/v1/dead-letters",
            answer=Page[consent.DeadLetterItem],
            query={"state": state, "cursor": cursor, "limit": limit},
        )

    @operation
    def decide(
        self, service: Service, letter_id: int, decision: Literal["replay", "discard"]
    ) -> Request[consent.DeadLetterItem]:
        """Decide about a dead letter.

        `replay`: a worker handles the record again, soon; the list shows the outcome. `discard`: the record is
        given up.
        """
        return Request(
            "POST",
            service,
            "/v1/dead-letters/{letter_id}/{decision}",
            answer=consent.DeadLetterItem,
            names={"letter_id": letter_id, "decision": decision},
        )


class DoubleOptIns(Resource[S]):
    """The double opt ins."""

    @operation
    def create(
        self,
        *,
        sender_id: str,
        purpose: str,
        number: str,
        occurred_at: dt.datetime,
        evidence: consent_bodies.EvidenceBody,
        country: str | Omitted | None = OMITTED,
        basis: Literal["opt_in"] | Omitted = OMITTED,
        link: bool | Omitted = OMITTED,
        idempotency_key: str | None = None,
    ) -> Request[consent.DoubleOptInAnswer]:
        """Ask the person by SMS to confirm the form.

        The request allows no marketing. The answer does: an OUI by SMS from the number before `answer_before`,
        or the link in the SMS, if there is a link. 429 with Retry-After: too many questions by the sender's
        controller, to this number or in all, or by this caller. 403 `not-allowed-by-limits`: the organisation
        may not write to the number's place.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `purpose`: The purpose of the consent, by its id with the sender, such as `promotions`.

        `number`: A mobile number in any usual notation. A writing that could be two people's in the countries
        that apply is refused as `ambiguous`.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.

        `basis`: A double opt-in is an `opt_in`.

        `occurred_at`: Time at source: when the person opted in, in RFC 3339 with an offset. The newest of
        opt-ins and opt-outs counts; a tie is an opt-out.

        `link`: Add a link to a page with the question and a button for yes.
        """
        return Request(
            "POST",
            "consent",
            "/v1/double-opt-ins",
            answer=consent.DoubleOptInAnswer,
            body={
                "sender_id": sender_id,
                "purpose": purpose,
                "number": number,
                "country": country,
                "basis": basis,
                "occurred_at": occurred_at,
                "evidence": evidence,
                "link": link,
            },
            keyed=True,
            idempotency_key=idempotency_key,
        )


class Endings(Resource[S]):
    """The endings."""

    @operation
    def count(self, sender_id: str, *, months: int | Omitted = OMITTED) -> Request[consent.EndingMonths]:
        """Count the endings of `months` months, the present month first.

        `months`: So many months, the present month first.
        """
        return Request(
            "GET",
            "consent",
            "/v1/senders/{sender_id}/endings/months",
            answer=consent.EndingMonths,
            names={"sender_id": sender_id},
            query={"months": months},
        )

    @listing
    def list(
        self,
        sender_id: str,
        *,
        months: int | Omitted = OMITTED,
        cursor: str | Omitted = OMITTED,
        limit: int | Omitted = OMITTED,
    ) -> Request[Page[consent.Ending]]:
        """List the consents that end within `months` months, the soonest first.

        `months`: So many months, the present month first.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "consent",
            "/v1/senders/{sender_id}/endings",
            answer=Page[consent.Ending],
            names={"sender_id": sender_id},
            query={"months": months, "cursor": cursor, "limit": limit},
        )


class Enforcements(Resource[S]):
    """The enforcements."""

    @listing
    def list(
        self, *, cursor: str | Omitted = OMITTED, limit: int | Omitted = OMITTED
    ) -> Request[Page[dispatch.Enforcement]]:
        """List opt-outs applied here, oldest first, with the instant since which no forbidden hand-off begins.

        An opt-out concerns a person, not one sender: the list needs a token for every sender.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "dispatch",
            "/v1/enforcements",
            answer=Page[dispatch.Enforcement],
            query={"cursor": cursor, "limit": limit},
        )


class Erasures(Resource[S]):
    """The erasures."""

    @operation
    def create(
        self,
        *,
        number: str,
        evidence: consent_bodies.EvidenceBody,
        country: str | Omitted | None = OMITTED,
        controller: str | Omitted | None = OMITTED,
        idempotency_key: str | None = None,
    ) -> Request[consent.Certificate]:
        """Stop a controller's messages to this number at once, and erase the controller's data about the person.

        Every service erases what it holds for the controller's senders. What other controllers hold stays, and
        so do opt-outs. During an open erasure, the same request returns that erasure.

        `number`: A number in any notation with a digit.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.

        `controller`: The controller whose data is meant. Required where the token covers several controllers.
        """
        return Request(
            "POST",
            "consent",
            "/v1/erasures",
            answer=consent.Certificate,
            body={"number": number, "country": country, "controller": controller, "evidence": evidence},
            keyed=True,
            idempotency_key=idempotency_key,
        )

    @listing
    def list(
        self,
        *,
        status: Literal["open", "complete"] | Omitted = OMITTED,
        cursor: str | Omitted = OMITTED,
        limit: int | Omitted = OMITTED,
    ) -> Request[Page[consent.Certificate]]:
        """List open or complete erasures of the token's controllers, oldest first; to the platform's operator,
        all.

        `status`: Only those in this state.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "consent",
            "/v1/erasures",
            answer=Page[consent.Certificate],
            query={"status": status, "cursor": cursor, "limit": limit},
        )

    @operation
    def get(self, erasure_id: str) -> Request[consent.Certificate]:
        """Return an erasure's progress, and its certificate once complete."""
        return Request(
            "GET", "consent", "/v1/erasures/{erasure_id}", answer=consent.Certificate, names={"erasure_id": erasure_id}
        )


class Events(Resource[S]):
    """The events."""

    @listing
    def list(
        self,
        *,
        cursor: str | Omitted = OMITTED,
        limit: int | Omitted = OMITTED,
        type: Sequence[
            Literal[
                "consent.changed",
                "consent.opted_out",
                "consent.opt_out_enforced",
                "review.waiting",
                "message.accepted",
                "message.delivered",
                "message.failed",
                "campaign.started",
                "campaign.paused",
                "campaign.resumed",
                "campaign.finished",
                "campaign.cancelled",
                "import.finished",
                "erasure.finished",
                "webhook.disabled",
                "webhook.test",
            ]
        ]
        | Omitted = OMITTED,
        sender_id: str | Omitted = OMITTED,
        wait_s: float | Omitted = 20,
    ) -> Request[Page[campaign.AnyEvent]]:
        """Read the events of your organisation, oldest first, from a cursor on.

        The first call begins the feed. Each answer has `next`, also an empty one. A cursor whose events are
        past their retention is answered 410. An event may come twice, with the same id; events about the same
        person, campaign or import come in their order. A token for some senders gets the events of these
        senders alone, and `webhook.disabled` of each webhook about no other senders.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.

        `type`: Events of these types alone; repeat it.

        `sender_id`: Events of this sender alone.

        `wait_s`: How long to wait for an event.
        """
        return Request(
            "GET",
            "campaign",
            "/v1/events",
            answer=Page[campaign.AnyEvent],
            query={"cursor": cursor, "limit": limit, "type": type, "sender_id": sender_id, "wait_s": wait_s},
        )

    @download
    def stream(
        self,
        *,
        type: Sequence[
            Literal[
                "consent.changed",
                "consent.opted_out",
                "consent.opt_out_enforced",
                "review.waiting",
                "message.accepted",
                "message.delivered",
                "message.failed",
                "campaign.started",
                "campaign.paused",
                "campaign.resumed",
                "campaign.finished",
                "campaign.cancelled",
                "import.finished",
                "erasure.finished",
                "webhook.disabled",
                "webhook.test",
            ]
        ]
        | Omitted = OMITTED,
        sender_id: str | Omitted = OMITTED,
        after: str | Omitted = OMITTED,
        lasts_s: float | Omitted = OMITTED,
        last_event_id: str | Omitted = OMITTED,
    ) -> Request[bytes]:
        """Read the events of your organisation as server-sent events: `id` is the cursor behind the event.

        The stream ends after ten minutes at most; connect again with `Last-Event-ID`, as browsers do.

        `type`: Events of these types alone; repeat it.

        `sender_id`: Events of this sender alone.

        `after`: `next` of a page, or `id` of an event.

        `lasts_s`: When the stream ends, after what is there.

        `last_event_id`: Goes before `after`.
        """
        return Request(
            "GET",
            "campaign",
            "/v1/events/stream",
            query={"type": type, "sender_id": sender_id, "after": after, "lasts_s": lasts_s},
            headers={"last-event-id": last_event_id},
        )


class Interactions(Resource[S]):
    """The interactions."""

    @operation
    def create(
        self, *, items: Sequence[consent_bodies.InteractionBody], idempotency_key: str | None = None
    ) -> Request[consent.InteractionsAnswer]:
        """Record people's acts with a sender, up to a thousand.

        The ledger keeps one per day, person and sender. `unchanged` marks a further act of the day, or a person
        without any record for this sender: no data is held about strangers.

        `items`: The interactions, up to 1,000.
        """
        return Request(
            "POST",
            "consent",
            "/v1/interactions",
            answer=consent.InteractionsAnswer,
            body={"items": items},
            keyed=True,
            idempotency_key=idempotency_key,
        )


class Keys(Resource[S]):
    """The keys."""

    @operation
    def get(self) -> Request[dict[str, list[dict[str, str]]]]:
        """Return the public keys, retired keys included. The route needs no token: any reader may check a receipt."""
        return Request("GET", "consent", "/.well-known/jwks.json", answer=dict[str, list[dict[str, str]]])


class MessageTimelines(Resource[S]):
    """The message timelines."""

    @operation
    def get(
        self, *, number: str, country: str | Omitted | None = OMITTED, limit: int | Omitted = OMITTED
    ) -> Request[dispatch.Timeline]:
        """Return a person's messages from the senders your token covers, and their DLRs.

        Kinds: `message`, with status and reasons, at the time of the request; `receipt`, at the operator's
        time.

        `number`: A mobile number in any usual notation.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.

        `limit`: Moments at most, the newest ones.
        """
        return Request(
            "POST",
            "dispatch",
            "/v1/timeline",
            answer=dispatch.Timeline,
            body={"number": number, "country": country, "limit": limit},
            reads=True,
        )


class Messages(Resource[S]):
    """The messages."""

    @operation
    def create(
        self,
        *,
        sender_id: str,
        to: str,
        category: Literal["transactional", "service", "marketing"],
        country: str | Omitted | None = OMITTED,
        template_id: str | Omitted | None = OMITTED,
        version: int | Omitted | None = OMITTED,
        values: Mapping[str, str] | Omitted = OMITTED,
        text: str | Omitted | None = OMITTED,
        purpose: str | Omitted | None = OMITTED,
        override_reason: str | Omitted | None = OMITTED,
        send_before: dt.datetime | Omitted | None = OMITTED,
        postcode: str | Omitted | None = OMITTED,
        idempotency_key: str | None = None,
    ) -> Request[dispatch.Sent]:
        """Accept a message, or up to 1,000 in `messages`, for the gate to decide on at once.

        202: the ledger has each accepted message. Each lane has its own scope. A transactional or service
        message leaves from an approved template, or with a free text for a token with that scope. The messages
        of a batch are accepted in one transaction, or in one for each shard, and a refused message keeps none
        of the others back. A refused message is in no ledger: an audit keeps the reasons, without the text and
        the person.

        429: a limit of the organisation or the token refuses the message, or every message of a batch; the
        reason names the limit. 403 `not-allowed-by-limits`: the limits name no such place, or no price is
        known. A repeat under its `Idempotency-Key` counts once, and gets the first answer.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `to`: A mobile number in any usual notation.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.

        `category`: The lane. A service message waits for courtesy hours, a transactional message goes at any
        hour.

        `template_id`: An approved template of the sender.

        `version`: Null: the newest approved version.

        `values`: The values of the template's fields.

        `text`: A free text, at most ten SMS. Outside marketing, the text needs the scope
        `message:send:free_text`, and may not look like advertising.

        `purpose`: The consent's purpose; required for marketing.

        `override_reason`: The reason for which a free text leaves although the text looks like advertising.
        Needs the scope `message:send:override`, and is audited.

        `send_before`: The message expires at this instant; default: in a day.

        `postcode`: The postcode of the person's address, for regional holidays and hours.
        """
        return Request(
            "POST",
            "dispatch",
            "/v1/messages",
            answer=dispatch.Sent,
            body={
                "sender_id": sender_id,
                "to": to,
                "country": country,
                "category": category,
                "template_id": template_id,
                "version": version,
                "values": values,
                "text": text,
                "purpose": purpose,
                "override_reason": override_reason,
                "send_before": send_before,
                "postcode": postcode,
            },
            keyed=True,
            idempotency_key=idempotency_key,
        )

    @operation
    def create_batch(
        self, *, messages: Sequence[dispatch_bodies.Send], idempotency_key: str | None = None
    ) -> Request[dispatch.BatchResults]:
        """Accept a message, or up to 1,000 in `messages`, for the gate to decide on at once.

        202: the ledger has each accepted message. Each lane has its own scope. A transactional or service
        message leaves from an approved template, or with a free text for a token with that scope. The messages
        of a batch are accepted in one transaction, or in one for each shard, and a refused message keeps none
        of the others back. A refused message is in no ledger: an audit keeps the reasons, without the text and
        the person.

        429: a limit of the organisation or the token refuses the message, or every message of a batch; the
        reason names the limit. 403 `not-allowed-by-limits`: the limits name no such place, or no price is
        known. A repeat under its `Idempotency-Key` counts once, and gets the first answer.

        `messages`: The messages; an item of the wrong form is refused alone.
        """
        return Request(
            "POST",
            "dispatch",
            "/v1/messages",
            answer=dispatch.BatchResults,
            body={"messages": messages},
            keyed=True,
            idempotency_key=idempotency_key,
        )

    @listing
    def list(
        self,
        *,
        sender_id: str,
        campaign_id: str | Omitted = OMITTED,
        status: Literal["pending", "denied", "deferred", "sending", "accepted", "rejected", "unknown", "expired"]
        | Omitted = OMITTED,
        since: dt.datetime | Omitted = OMITTED,
        until: dt.datetime | Omitted = OMITTED,
        sort: Literal["newest", "oldest"] | Omitted = OMITTED,
        cursor: str | Omitted = OMITTED,
        limit: int | Omitted = OMITTED,
    ) -> Request[Page[dispatch.ListedMessage]]:
        """List the messages of a sender requested in a time: of campaigns, and of `POST /v1/messages`.

        The order is that of the requests. `campaign_id` and `status` narrow the list: a rare status in a long
        time takes a while.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `campaign_id`: The id of the campaign, `cmp-` and 24 hexadecimal digits.

        `status`: Only messages of this status.

        `since`: Default: a week before `until`. At most 92 days before `until`.

        `until`: Default: now.

        `sort`: The first item: the newest, or the oldest. Name the same with a cursor. With `oldest`, an item
        written while its page is read may be on no page; `GET /v1/events` tells of new things.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "dispatch",
            "/v1/messages",
            answer=Page[dispatch.ListedMessage],
            query={
                "sender_id": sender_id,
                "campaign_id": campaign_id,
                "status": status,
                "since": since,
                "until": until,
                "sort": sort,
                "cursor": cursor,
                "limit": limit,
            },
        )

    @operation
    def get(self, identity: UUID | str) -> Request[dispatch.Decision]:
        """Return the verdict of a message, all its reasons, and the decision record.

        Only the platform's operator sees each reason that other senders' data may explain: `other_controller`,
        `erased`, `consent_unreadable`, `provider_block`. A sender sees such a reason where no other reason
        denies the message.
        """
        return Request(
            "GET", "dispatch", "/v1/messages/{identity}", answer=dispatch.Decision, names={"identity": identity}
        )

    @listing
    def search(
        self,
        *,
        number: str,
        country: str | Omitted | None = OMITTED,
        sender_id: str | Omitted | None = OMITTED,
        cursor: str | Omitted | None = OMITTED,
        limit: int | Omitted = OMITTED,
    ) -> Request[Page[dispatch.ListedMessage]]:
        """List the messages to one person from the senders your token covers, newest first.

        `number`: A mobile number in any usual notation.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.

        `sender_id`: Only messages of this sender. Default: of every sender that the token covers.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "POST",
            "dispatch",
            "/v1/messages/search",
            answer=Page[dispatch.ListedMessage],
            body={"number": number, "country": country, "sender_id": sender_id, "cursor": cursor, "limit": limit},
            reads=True,
        )

    @operation
    def before_reviews(self, *, sent_before: Sequence[str]) -> Request[dispatch.BeforeReviewsAnswer]:
        """Return what people were sent before texts in review, so that a reviewer understands the reply.

        A ticket of `GET /v1/reviews` names the person and the text: no other person's messages are shown, and
        none after the text.

        `sent_before`: `sent_before` of each item of `GET /v1/reviews`, not older than an hour.
        """
        return Request(
            "POST",
            "dispatch",
            "/v1/messages/before-reviews",
            answer=dispatch.BeforeReviewsAnswer,
            body={"sent_before": sent_before},
            reads=True,
        )


class OptOuts(Resource[S]):
    """The opt outs."""

    @operation
    def create(
        self,
        *,
        sender_id: str | None,
        number: str,
        evidence: consent_bodies.EvidenceBody,
        purpose: str | Omitted | None = OMITTED,
        country: str | Omitted | None = OMITTED,
        occurred_at: dt.datetime | Omitted | None = OMITTED,
        idempotency_key: str | None = None,
    ) -> Request[consent.ConsentAnswer]:
        """Record one opt-out: of a purpose, of a sender with all purposes, or of every sender.

        A number may be read in two ways: nine digits as a French number without the 0 or an overseas number
        without the +, a national writing by the plans of two of the sender's countries. The opt-out then counts
        for every reading. `Location` names the signed receipt.

        `sender_id`: The sender that the person stops; null: every sender.

        `purpose`: The purpose that the person leaves; null: every purpose.

        `number`: A number in any notation with a digit: a STOP counts, whatever the number. A writing that
        could be two people's in the countries that apply stops both.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.

        `occurred_at`: Time at source: when the person opted out, in RFC 3339 with an offset. Default: now.
        """
        return Request(
            "POST",
            "consent",
            "/v1/opt-outs",
            answer=consent.ConsentAnswer,
            body={
                "sender_id": sender_id,
                "purpose": purpose,
                "number": number,
                "country": country,
                "occurred_at": occurred_at,
                "evidence": evidence,
            },
            keyed=True,
            idempotency_key=idempotency_key,
        )

    @listing
    def list(
        self,
        *,
        sender_id: str,
        purpose: str | Omitted = OMITTED,
        since: dt.datetime | Omitted = OMITTED,
        until: dt.datetime | Omitted = OMITTED,
        sort: Literal["newest", "oldest"] | Omitted = OMITTED,
        cursor: str | Omitted = OMITTED,
        limit: int | Omitted = OMITTED,
    ) -> Request[Page[consent.OptOut]]:
        """List the opt-outs that reach a sender, by the time of their record.

        Each STOP is a line, so a person may have several. `GET /v1/events` tells new ones as they come.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `purpose`: Only opt-outs that close this purpose, wider opt-outs included.

        `since`: Only opt-outs on record at this instant or later.

        `until`: Only opt-outs on record before this instant.

        `sort`: The first item: the newest, or the oldest. Name the same with a cursor. With `oldest`, an item
        written while its page is read may be on no page; `GET /v1/events` tells of new things.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "consent",
            "/v1/opt-outs",
            answer=Page[consent.OptOut],
            query={
                "sender_id": sender_id,
                "purpose": purpose,
                "since": since,
                "until": until,
                "sort": sort,
                "cursor": cursor,
                "limit": limit,
            },
        )

    @download
    def export(
        self,
        *,
        sender_id: str,
        purpose: str | Omitted = OMITTED,
        since: dt.datetime | Omitted = OMITTED,
        until: dt.datetime | Omitted = OMITTED,
    ) -> Request[bytes]:
        """Return the opt-outs that reach a sender as CSV, a line each, without numbers, the newest pages first.

        The export reads page after page: `in_force` is as at the time of reading.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `purpose`: Only opt-outs that close this purpose, wider opt-outs included.

        `since`: Only opt-outs on record at this instant or later.

        `until`: Only opt-outs on record before this instant.
        """
        return Request(
            "GET",
            "consent",
            "/v1/opt-outs.csv",
            query={"sender_id": sender_id, "purpose": purpose, "since": since, "until": until},
        )


class PreFlights(Resource[S]):
    """The pre flights."""

    @operation
    def create(self, campaign_id: str, *, at: dt.datetime | Omitted | None = OMITTED) -> Request[campaign.PreFlight]:
        """Forecast the campaign as of now, and return the findings against scheduling.

        Scheduling runs the text checks again; findings in the audience are taken from the last pre-flight of an
        unchanged campaign. `at` is required with `timing.local_time`.

        `at`: The start to forecast. Default: at once.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/campaigns/{campaign_id}/pre-flight",
            answer=campaign.PreFlight,
            names={"campaign_id": campaign_id},
            body={"at": at},
            reads=True,
        )


class PreferenceLinks(Resource[S]):
    """The preference links."""

    @operation
    def create(
        self,
        *,
        sender_id: str | None,
        number: str,
        country: str | Omitted | None = OMITTED,
        days: int | Omitted | None = OMITTED,
        send: bool | Omitted = OMITTED,
        idempotency_key: str | None = None,
    ) -> Request[consent.LinkAnswer]:
        """Make a short link to a person's preference page, and text the link or return the URL.

        A URL given to a caller stops, and neither opts in nor erases, unless the caller is the platform's
        operator; use `send` for these. With an Idempotency-Key, the same request returns the same link and
        texts once, as long as the link lasts. A link is texted to a person on the sender's record, at most a
        few times a day; the answer for another number is the same.

        `sender_id`: The sender whose page to show; null shows every sender, for the platform's operator alone.

        `number`: A mobile number in any usual notation. A writing that could be two people's is refused as
        `ambiguous`.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.

        `days`: The days that the link works. Default: as the platform is set.

        `send`: Send the link to the person, whose number is on record; the response omits the link.
        """
        return Request(
            "POST",
            "consent",
            "/v1/preference-links",
            answer=consent.LinkAnswer,
            body={"sender_id": sender_id, "number": number, "country": country, "days": days, "send": send},
            keyed=True,
            idempotency_key=idempotency_key,
        )


class Proofs(Resource[S]):
    """The proofs."""

    @download
    def get(
        self, *, number: str, country: str | Omitted | None = OMITTED, name_the_number: bool | Omitted = OMITTED
    ) -> Request[bytes]:
        """Return the whole record of a number, in one file for `python -m consent verify-bundle`.

        The file has a chain for each controller of the token's senders, under the person's id with the
        controller. Without any record of these senders the chain is empty, whatever others have on record. Of
        the controller's other senders' entries, and of those about every sender, the caller gets the hashes.
        The platform's operator gets the ledger's own chain, linked under the platform's own id of the person.

        `number`: A number in any notation with a digit.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.

        `name_the_number`: True: the bundle contains the number, for the person or the regulator only.
        """
        return Request(
            "POST",
            "consent",
            "/v1/proofs",
            body={"number": number, "country": country, "name_the_number": name_the_number},
            reads=True,
        )

    @download
    def get_of_campaign(self, campaign_id: str) -> Request[bytes]:
        """Stream every message of a campaign which was handed off, with the whole chain of each recipient.

        Each chain is of the sender's controller alone; entries which do not concern the sender are withheld,
        and entries about every sender come without what is personal. A truncated file has no end line, and
        fails the check. Once some of the messages may be past retention, the answer is 410: half a proof would
        look whole.
        """
        return Request("GET", "consent", "/v1/proofs/campaigns/{campaign_id}", names={"campaign_id": campaign_id})


class ProviderBlocks(Resource[S]):
    """The provider blocks."""

    @listing
    def list(
        self, *, cursor: str | Omitted = OMITTED, limit: int | Omitted = OMITTED
    ) -> Request[Page[dispatch.ProviderBlock]]:
        """List people to whom a provider does not deliver and gives no reason, oldest first.

        Each block needs review: the cause may be the person's wish. A blocked person gets no marketing by any
        gateway, and nothing by the blocking gateway.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "dispatch",
            "/v1/provider-blocks",
            answer=Page[dispatch.ProviderBlock],
            query={"cursor": cursor, "limit": limit},
        )

    @operation
    def delete(self, gateway: str, subject_id: str) -> Request[None]:
        """Remove a block, so that the gateway may deliver to this person again.

        Marketing resumes, by any gateway, once the person has no other block. Messages denied meanwhile stay
        denied.
        """
        return Request(
            "DELETE",
            "dispatch",
            "/v1/provider-blocks/{gateway}/{subject_id}",
            names={"gateway": gateway, "subject_id": subject_id},
        )


class Receipts(Resource[S]):
    """The receipts."""

    @operation
    def get(self, evidence_id: str) -> Request[consent.ReceiptBody]:
        """Return the signed receipt of a ledger line, the payload, and the receipts of corrections.

        A line of a sender outside the token gives 404, and so does a line about every sender, except to the
        platform's operator.
        """
        return Request(
            "GET",
            "consent",
            "/v1/receipts/{evidence_id}",
            answer=consent.ReceiptBody,
            names={"evidence_id": evidence_id},
        )


class Reconciliations(Resource[S]):
    """The reconciliations."""

    @operation
    def create(
        self, *, sender_id: str, provider: str, list: str, country: str | Omitted | None = OMITTED
    ) -> Request[consent.Drift]:
        """Compare the lists, and record the missing opt-outs. The same list again finds nothing more.

        By a token for every sender of the organisation, a missing opt-out is the person's own STOP. By another
        token, the opt-out is the caller's, as by `POST /v1/opt-outs`. The work runs in chunks: after an error,
        send the list again.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `provider`: The provider, by its name in docs/providers.md, such as `ovh`.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.

        `list`: A CSV, or a JSON list of numbers, as text.
        """
        return Request(
            "POST",
            "consent",
            "/v1/reconciliations",
            answer=consent.Drift,
            body={"sender_id": sender_id, "provider": provider, "country": country, "list": list},
        )

    @operation
    def dry_run(
        self, *, sender_id: str, provider: str, list: str, country: str | Omitted | None = OMITTED
    ) -> Request[consent.DryRun]:
        """Read a provider's list as a reconciliation would, compare nothing, and store nothing.

        The answer has the first lines as read, the meaning that each column was taken for, and the lines
        without a number.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `provider`: The provider, by its name in docs/providers.md, such as `ovh`.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.

        `list`: A CSV, or a JSON list of numbers, as text.
        """
        return Request(
            "POST",
            "consent",
            "/v1/reconciliations/dry-run",
            answer=consent.DryRun,
            body={"sender_id": sender_id, "provider": provider, "country": country, "list": list},
            reads=True,
        )


class Rectifications(Resource[S]):
    """The rectifications."""

    @operation
    def create(
        self,
        *,
        number: str,
        asked: consent_bodies.AskedBody,
        correct: consent_bodies.ContactBody | consent_bodies.NumberBody | consent_bodies.LineBody,
        country: str | Omitted | None = OMITTED,
        controller: str | Omitted | None = OMITTED,
        idempotency_key: str | None = None,
    ) -> Request[consent.RectificationView]:
        """Correct a controller's data about this number (RGPD art. 16): a contact's fields, the number, or a
        ledger line.

        A rectification never opens a consent: record the right consent with `POST /v1/consents`. The caller has
        verified the person's identity.

        `number`: A number in any notation with a digit.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.

        `controller`: The controller whose data is meant. Required where the token covers several controllers.

        `correct`: The correction: of contacts, of the number, or of a line of the ledger.
        """
        return Request(
            "POST",
            "consent",
            "/v1/rectifications",
            answer=consent.RectificationView,
            body={"number": number, "country": country, "controller": controller, "asked": asked, "correct": correct},
            keyed=True,
            idempotency_key=idempotency_key,
        )

    @listing
    def list(
        self,
        *,
        status: Literal["open", "complete"] | Omitted = OMITTED,
        cursor: str | Omitted = OMITTED,
        limit: int | Omitted = OMITTED,
    ) -> Request[Page[consent.RectificationView]]:
        """List open or complete rectifications of the token's controllers, oldest first.

        `status`: Only those in this state.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "consent",
            "/v1/rectifications",
            answer=Page[consent.RectificationView],
            query={"status": status, "cursor": cursor, "limit": limit},
        )

    @operation
    def get(self, rectification_id: str) -> Request[consent.RectificationView]:
        """Return a rectification: the request, and the data corrected."""
        return Request(
            "GET",
            "consent",
            "/v1/rectifications/{rectification_id}",
            answer=consent.RectificationView,
            names={"rectification_id": rectification_id},
        )


class ReopeningRules(Resource[S]):
    """The reopening rules."""

    @operation
    def create(self, sender_id: str, *, purpose: str, reason: str) -> Request[consent.RuleView]:
        """Let an asserted opt-in reopen this purpose after a STOP to the sender.

        201: the rule begins. 200: a rule was in force before. The opt-in has to be newer than the STOP, and
        recorded while the rule is in force. A STOP to every sender stays. The token has to cover the sender and
        its controller.

        `purpose`: The purpose of the consent, by its id with the sender, such as `promotions`.

        `reason`: The controller's reason, for a reader of an audit: 1 to 1,000 characters.
        """
        return Request(
            "POST",
            "consent",
            "/v1/senders/{sender_id}/reopening-rules",
            answer=consent.RuleView,
            names={"sender_id": sender_id},
            body={"purpose": purpose, "reason": reason},
        )

    @listing
    def list(
        self, sender_id: str, *, cursor: str | Omitted = OMITTED, limit: int | Omitted = OMITTED
    ) -> Request[Page[consent.RuleView]]:
        """List every rule of the sender, oldest first: who decided what, when and why.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "consent",
            "/v1/senders/{sender_id}/reopening-rules",
            answer=Page[consent.RuleView],
            names={"sender_id": sender_id},
            query={"cursor": cursor, "limit": limit},
        )

    @operation
    def end(self, sender_id: str, rule_id: str, *, reason: str) -> Request[consent.RuleView]:
        """End a rule: from now on only the person takes a STOP back. An ended rule stays as it is.

        A consent that an opt-in has reopened under the rule stays open, and still names the rule.

        `reason`: The controller's reason, for a reader of an audit: 1 to 1,000 characters.
        """
        return Request(
            "POST",
            "consent",
            "/v1/senders/{sender_id}/reopening-rules/{rule_id}/end",
            answer=consent.RuleView,
            names={"sender_id": sender_id, "rule_id": rule_id},
            body={"reason": reason},
        )


class Replies(Resource[S]):
    """The replies."""

    @listing
    def list(
        self,
        *,
        sender_id: str,
        since: dt.datetime | Omitted = OMITTED,
        until: dt.datetime | Omitted = OMITTED,
        sort: Literal["newest", "oldest"] | Omitted = OMITTED,
        cursor: str | Omitted = OMITTED,
        limit: int | Omitted = OMITTED,
    ) -> Request[Page[inbound.Reply]]:
        """List the texts that people wrote to the codes of the sender's controller in a time, by arrival.

        Senders of a controller share its codes: the token has to cover each of them. The ledger has what a text
        changed.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `since`: Default: a week before `until`. At most 92 days before `until`.

        `until`: Default: now.

        `sort`: The first item: the newest, or the oldest. Name the same with a cursor. With `oldest`, an item
        written while its page is read may be on no page; `GET /v1/events` tells of new things.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "inbound",
            "/v1/replies",
            answer=Page[inbound.Reply],
            query={
                "sender_id": sender_id,
                "since": since,
                "until": until,
                "sort": sort,
                "cursor": cursor,
                "limit": limit,
            },
        )


class Reports(Resource[S]):
    """The reports."""

    @operation
    def to_stopped(
        self, *, since: dt.datetime | Omitted = OMITTED, until: dt.datetime | Omitted = OMITTED
    ) -> Request[dispatch.ToStoppedReport]:
        """Count transactional and service messages to people who had stopped, by sender and template.

        Such messages are lawful: a code follows a contract. Many of them from one template may be advertising
        in disguise.

        `since`: Default: a week before `until`. At most 92 days before `until`.

        `until`: Default: now.
        """
        return Request(
            "GET",
            "dispatch",
            "/v1/reports/to-stopped",
            answer=dispatch.ToStoppedReport,
            query={"since": since, "until": until},
        )

    @operation
    def costs(
        self, *, since: dt.datetime | Omitted = OMITTED, until: dt.datetime | Omitted = OMITTED
    ) -> Request[dispatch.CostReport]:
        """Sum the cost of the messages decided in a time, by sender, lane and version of the price table.

        A later table changes no cost: each message keeps the cost of its sending.

        `since`: Default: a week before `until`. At most 92 days before `until`.

        `until`: Default: now.
        """
        return Request(
            "GET", "dispatch", "/v1/reports/costs", answer=dispatch.CostReport, query={"since": since, "until": until}
        )

    @operation
    def totals(
        self,
        *,
        sender_id: str | Omitted = OMITTED,
        by: Literal["day", "week"] | Omitted = OMITTED,
        time_zone: str | Omitted = OMITTED,
        since: dt.datetime | Omitted = OMITTED,
        until: dt.datetime | Omitted = OMITTED,
    ) -> Request[dispatch.Totals]:
        """Sum the messages requested in a time by day or by week, sender and lane, with status, DLR and real cost.

        The first and the last day or week hold only messages of the time asked about.

        `sender_id`: Only things of this sender. Default: of every sender.

        `by`: The length of the time that a line sums.

        `time_zone`: Of days and weeks, as in the IANA database.

        `since`: Default: a week before `until`. At most 92 days before `until`.

        `until`: Default: now.
        """
        return Request(
            "GET",
            "dispatch",
            "/v1/reports/totals",
            answer=dispatch.Totals,
            query={"sender_id": sender_id, "by": by, "time_zone": time_zone, "since": since, "until": until},
        )


class RetroactiveMessages(Resource[S]):
    """The retroactive messages."""

    @listing
    def list(
        self, *, sender_id: str | Omitted = OMITTED, cursor: str | Omitted = OMITTED, limit: int | Omitted = OMITTED
    ) -> Request[Page[consent.RetroactiveMessage]]:
        """List the marketing messages which went out after a person's STOP, in order of discovery.

        The STOP was not yet on record, or not yet enforced. A message is listed only where the STOP covers the
        sender and the purpose. The list covers the senders of the token, or only `sender_id`.

        `sender_id`: Only things of this sender. Default: of every sender.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "consent",
            "/v1/retroactive-messages",
            answer=Page[consent.RetroactiveMessage],
            query={"sender_id": sender_id, "cursor": cursor, "limit": limit},
        )


class Reviews(Resource[S]):
    """The reviews."""

    @listing
    def list(
        self,
        *,
        state: Literal["open", "decided"] | Omitted = OMITTED,
        concern: Literal["doubt", "unread", "erasure", "access", "source", "wrong_number", "return"]
        | Omitted = OMITTED,
        cursor: str | Omitted = OMITTED,
        limit: int | Omitted = OMITTED,
    ) -> Request[Page[inbound.ReviewItem]]:
        """List open or decided reviews, oldest first, with texts in clear.

        `state`: Only reviews in this state.

        `concern`: Only reviews of this concern: a lane of the queue.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "inbound",
            "/v1/reviews",
            answer=Page[inbound.ReviewItem],
            query={"state": state, "concern": concern, "cursor": cursor, "limit": limit},
        )

    @operation
    def decide(
        self, mo_id: str, *, intent: Literal["stop", "start", "contact", "none"], note: str | Omitted | None = OMITTED
    ) -> Request[inbound.ReviewItem]:
        """Decide a review once. 409 for a second decision, except a repetition by the same person.

        A STOP takes effect at once. Any other decision takes effect at `takes_effect_at`, and can be undone
        until then; marketing to the person waits as long.

        `intent`: The meaning of the text, as the reviewer reads it.

        `note`: A note for later readers of the review, encrypted at rest; without the number or the text.
        """
        return Request(
            "POST",
            "inbound",
            "/v1/reviews/{mo_id}/decision",
            answer=inbound.ReviewItem,
            names={"mo_id": mo_id},
            body={"intent": intent, "note": note},
        )

    @operation
    def decide_many(
        self,
        *,
        intent: Literal["stop", "start", "contact", "none"],
        mo_ids: Sequence[str],
        note: str | Omitted | None = OMITTED,
    ) -> Request[inbound.DecisionsAnswer]:
        """Decide up to 200 reviews alike: texts of one `like`. Each gets a decision of its own, or is refused
        alone.

        `intent`: The meaning of the text, as the reviewer reads it.

        `note`: A note for later readers of the review, encrypted at rest; without the number or the text.

        `mo_ids`: The texts, by MO, each once.
        """
        return Request(
            "POST",
            "inbound",
            "/v1/reviews/decisions",
            answer=inbound.DecisionsAnswer,
            body={"intent": intent, "note": note, "mo_ids": mo_ids},
        )

    @operation
    def undo(self, mo_id: str) -> Request[inbound.ReviewItem]:
        """Take a decision back that is not in effect: the text is open again. An open review stays open."""
        return Request("POST", "inbound", "/v1/reviews/{mo_id}/undo", answer=inbound.ReviewItem, names={"mo_id": mo_id})

    @operation
    def propose_lines(self) -> Request[inbound.Proposals]:
        """Return the words of decided texts as lines that a developer may take into the keyword lists, or leave.

        A line stands for the texts of two people or more, without numbers. No list takes a line over by itself:
        a developer edits the list, with its tests, and another reviews the edit.
        """
        return Request("GET", "inbound", "/v1/reviews/proposals", answer=inbound.Proposals)


class Seals(Resource[S]):
    """The seals."""

    @operation
    def get_newest(self, *, shard: str | Omitted = OMITTED) -> Request[consent.SealBody]:
        """Return the newest seal on the whole ledger, signed.

        A kept `pin` lets `python -m consent verify --pin` check the whole ledger up to this seal. For the
        platform's operator: a seal tells how much every organisation has recorded.

        `shard`: The shard whose ledger is asked for. Default: of partition 0.
        """
        return Request("GET", "consent", "/v1/seals/newest", answer=consent.SealBody, query={"shard": shard})

    @listing
    def list(
        self, *, shard: str | Omitted = OMITTED, cursor: str | Omitted = OMITTED, limit: int | Omitted = OMITTED
    ) -> Request[Page[consent.SealBody]]:
        """List every seal, oldest first, for the platform's operator. A seal holds no personal data.

        `shard`: The shard whose ledger is asked for. Default: of partition 0.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "consent",
            "/v1/seals",
            answer=Page[consent.SealBody],
            query={"shard": shard, "cursor": cursor, "limit": limit},
        )


class Segments(Resource[S]):
    """The segments."""

    @operation
    def count(self, *, sender_id: str, expression: Mapping[str, Any]) -> Request[campaign.Counted]:
        """Count the contacts an expression selects, without saving it.

        The answer takes about a second; the count of a large audience is estimated (`exact` is false), within
        `margin`.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `expression`: `all`, `any` and `not` of conditions. A condition is on an `attribute` (is, in, exists,
        lt, lte, gt, gte, starts_with, anniversary_in), a `territory`, a `consent` of the sender, messages
        `received`, or links `clicked`. A date may be relative to today: `{"days": -30}`.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/segments/count",
            answer=campaign.Counted,
            body={"sender_id": sender_id, "expression": expression},
            reads=True,
        )

    @operation
    def create(
        self, *, sender_id: str, expression: Mapping[str, Any], name: str, idempotency_key: str | None = None
    ) -> Request[campaign.SegmentVersion]:
        """Save a segment with its first version.

        A repeat of the request with the same `Idempotency-Key` gets the first answer: the first version.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `expression`: `all`, `any` and `not` of conditions. A condition is on an `attribute` (is, in, exists,
        lt, lte, gt, gte, starts_with, anniversary_in), a `territory`, a `consent` of the sender, messages
        `received`, or links `clicked`. A date may be relative to today: `{"days": -30}`.

        `name`: The name of the segment, for the people who work with it.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/segments",
            answer=campaign.SegmentVersion,
            body={"sender_id": sender_id, "expression": expression, "name": name},
            keyed=True,
            idempotency_key=idempotency_key,
        )

    @listing
    def list(
        self, *, sender_id: str | Omitted = OMITTED, cursor: str | Omitted = OMITTED, limit: int | Omitted = OMITTED
    ) -> Request[Page[campaign.SegmentVersion]]:
        """List the segments of the senders your token covers, newest first, each in its latest version.

        `sender_id`: Only things of this sender. Default: of every sender.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "campaign",
            "/v1/segments",
            answer=Page[campaign.SegmentVersion],
            query={"sender_id": sender_id, "cursor": cursor, "limit": limit},
        )

    @operation
    def create_version(
        self, segment_id: str, *, expression: Mapping[str, Any], after: int
    ) -> Request[campaign.SegmentVersion]:
        """Add a version; 409 unless `after` is the latest. Campaigns keep the version they name.

        `expression`: `all`, `any` and `not` of conditions. A condition is on an `attribute` (is, in, exists,
        lt, lte, gt, gte, starts_with, anniversary_in), a `territory`, a `consent` of the sender, messages
        `received`, or links `clicked`. A date may be relative to today: `{"days": -30}`.

        `after`: The latest version known to the caller; 409 if a later version exists.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/segments/{segment_id}/versions",
            answer=campaign.SegmentVersion,
            names={"segment_id": segment_id},
            body={"expression": expression, "after": after},
        )

    @listing
    def list_versions(
        self, segment_id: str, *, cursor: str | Omitted = OMITTED, limit: int | Omitted = OMITTED
    ) -> Request[Page[campaign.SegmentVersion]]:
        """List the versions of the segment, newest first.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "campaign",
            "/v1/segments/{segment_id}/versions",
            answer=Page[campaign.SegmentVersion],
            names={"segment_id": segment_id},
            query={"cursor": cursor, "limit": limit},
        )

    @operation
    def get(self, segment_id: str) -> Request[campaign.SegmentVersion]:
        """Return a segment's latest version."""
        return Request(
            "GET",
            "campaign",
            "/v1/segments/{segment_id}",
            answer=campaign.SegmentVersion,
            names={"segment_id": segment_id},
        )


class SenderRules(Resource[S]):
    """The sender rules."""

    @operation
    def get(self, sender_id: str) -> Request[campaign.SenderRules]:
        """Return the rules for the sender's campaigns. consent-svc holds the sender's registration itself."""
        return Request(
            "GET",
            "campaign",
            "/v1/senders/{sender_id}/rules",
            answer=campaign.SenderRules,
            names={"sender_id": sender_id},
        )

    @operation
    def put(
        self,
        sender_id: str,
        *,
        approval: bool | Omitted = OMITTED,
        cap: campaign_bodies.Cap | Omitted | None = OMITTED,
        link_host: str | Omitted | None = OMITTED,
        stop_added: str | Omitted | None = OMITTED,
    ) -> Request[campaign.SenderRules]:
        """Replace the rules for the sender's campaigns.

        `approval`: A campaign needs an approval by a person who has not written any part of the campaign.

        `cap`: The most messages from the sender's campaigns to a person within so many days.

        `link_host`: The host name of the sender's short links; its path `/l/` leads to campaign-svc:
        m.maison-lune.example. A link has the length of this name and 23 characters.

        `stop_added`: The exact text that the operator appends to each message, with the blank or line break
        before: « STOP au 36111» for some operators. Texts of the sender then need no STOP mention, and the
        segments include the addition. Set the addition only if every gateway of the sender appends the
        addition: the gate checks each message again.
        """
        return Request(
            "PUT",
            "campaign",
            "/v1/senders/{sender_id}/rules",
            answer=campaign.SenderRules,
            names={"sender_id": sender_id},
            body={"approval": approval, "cap": cap, "link_host": link_host, "stop_added": stop_added},
        )


class Senders(Resource[S]):
    """The senders."""

    @operation
    def create(
        self,
        *,
        legal_name: str,
        brand: str,
        contact: str,
        country: str,
        oadc: str,
        stop_code: str,
        purposes: Sequence[consent_bodies.PurposeBody],
        sender_id: str,
        controller: str | Omitted | None = OMITTED,
        stop_scope: Literal["controller", "sender"] | Omitted = OMITTED,
        replies: consent_bodies.RepliesBody | Omitted = OMITTED,
        double_opt_in_hours: int | Omitted = OMITTED,
        renewal_days: int | Omitted | None = OMITTED,
        abroad: Sequence[str] | Omitted = OMITTED,
        authorisation: str | Omitted | None = OMITTED,
        reachable_in: Sequence[str] | Omitted = OMITTED,
    ) -> Request[consent.SenderBody]:
        """Register a sender, in version 1.

        201: registered. 200: the same content was registered before. 409: other content is.

        A token limited to some senders may not name a `stop_code` that a sender outside the token uses or used.

        `legal_name`: The name of the legal entity. The name belongs to one organisation, with all that looks
        like it.

        `brand`: The name by which people know the sender; SMS answers and questions name the brand. The brand
        belongs to one controller, with all that looks like it.

        `contact`: The address or number at which people reach the sender, as the answer to CONTACT gives it.

        `country`: The sender's country, ISO 3166-1 alpha-2, such as `FR`: its law and its clock apply.

        `oadc`: The sender's alphanumeric name on a phone: 3 to 11 letters and digits, with a letter. The name
        belongs to one controller, with all that looks like it.

        `stop_code`: The number for STOP: 36xxx for marketing, 38xxx for transactional messages (AF2M).

        `purposes`: The purposes for which the sender asks consent; none for a transactional STOP code.

        `controller`: The controller, by the id of the legal entity, which several senders may share. Default: a
        new sender stands alone.

        `stop_scope`: How far a STOP to this sender reaches: `controller`, every sender of the controller, or
        `sender`, this sender alone.

        `double_opt_in_hours`: Hours that a double opt-in question waits for the OUI.

        `renewal_days`: Days before a consent's end at which the person gets a single renewal question; null: no
        question.

        `abroad`: Other countries that the sender may send marketing to, ISO 3166-1.

        `authorisation`: The platform's reference of the document by which the owner of a protected name allows
        its use, or which shows that the caller is a legal entity of this name; only a token with
        `platform:admin` sets another one.

        `reachable_in`: The overseas places where the sender states that its STOP code can be reached, such as
        `MQ`. `GP` is of all numbers of +590, with Saint-Barthélemy and Saint-Martin. The registry keeps the
        caller and the time of each statement. Elsewhere outside metropolitan France a text needs `{stop_link}`.

        `sender_id`: The id of the sender for all calls: 2 to 40 small letters, digits and hyphens. The id never
        changes.
        """
        return Request(
            "POST",
            "consent",
            "/v1/senders",
            answer=consent.SenderBody,
            body={
                "legal_name": legal_name,
                "brand": brand,
                "contact": contact,
                "country": country,
                "oadc": oadc,
                "stop_code": stop_code,
                "purposes": purposes,
                "controller": controller,
                "stop_scope": stop_scope,
                "replies": replies,
                "double_opt_in_hours": double_opt_in_hours,
                "renewal_days": renewal_days,
                "abroad": abroad,
                "authorisation": authorisation,
                "reachable_in": reachable_in,
                "sender_id": sender_id,
            },
        )

    @listing
    def list(
        self, *, cursor: str | Omitted = OMITTED, limit: int | Omitted = OMITTED
    ) -> Request[Page[consent.SenderBody]]:
        """List the senders that your token covers, by id.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET", "consent", "/v1/senders", answer=Page[consent.SenderBody], query={"cursor": cursor, "limit": limit}
        )

    @operation
    def update(
        self,
        sender_id: str,
        *,
        legal_name: str,
        brand: str,
        contact: str,
        country: str,
        oadc: str,
        stop_code: str,
        purposes: Sequence[consent_bodies.PurposeBody],
        controller: str | Omitted | None = OMITTED,
        stop_scope: Literal["controller", "sender"] | Omitted = OMITTED,
        replies: consent_bodies.RepliesBody | Omitted = OMITTED,
        double_opt_in_hours: int | Omitted = OMITTED,
        renewal_days: int | Omitted | None = OMITTED,
        abroad: Sequence[str] | Omitted = OMITTED,
        authorisation: str | Omitted | None = OMITTED,
        reachable_in: Sequence[str] | Omitted = OMITTED,
    ) -> Request[consent.SenderBody]:
        """Store a new version if the content differs; otherwise return the present version.

        `controller` cannot change. The rules for a new sender's `stop_code` and names apply to new ones.

        `legal_name`: The name of the legal entity. The name belongs to one organisation, with all that looks
        like it.

        `brand`: The name by which people know the sender; SMS answers and questions name the brand. The brand
        belongs to one controller, with all that looks like it.

        `contact`: The address or number at which people reach the sender, as the answer to CONTACT gives it.

        `country`: The sender's country, ISO 3166-1 alpha-2, such as `FR`: its law and its clock apply.

        `oadc`: The sender's alphanumeric name on a phone: 3 to 11 letters and digits, with a letter. The name
        belongs to one controller, with all that looks like it.

        `stop_code`: The number for STOP: 36xxx for marketing, 38xxx for transactional messages (AF2M).

        `purposes`: The purposes for which the sender asks consent; none for a transactional STOP code.

        `controller`: The controller, by the id of the legal entity, which several senders may share. Default: a
        new sender stands alone.

        `stop_scope`: How far a STOP to this sender reaches: `controller`, every sender of the controller, or
        `sender`, this sender alone.

        `double_opt_in_hours`: Hours that a double opt-in question waits for the OUI.

        `renewal_days`: Days before a consent's end at which the person gets a single renewal question; null: no
        question.

        `abroad`: Other countries that the sender may send marketing to, ISO 3166-1.

        `authorisation`: The platform's reference of the document by which the owner of a protected name allows
        its use, or which shows that the caller is a legal entity of this name; only a token with
        `platform:admin` sets another one.

        `reachable_in`: The overseas places where the sender states that its STOP code can be reached, such as
        `MQ`. `GP` is of all numbers of +590, with Saint-Barthélemy and Saint-Martin. The registry keeps the
        caller and the time of each statement. Elsewhere outside metropolitan France a text needs `{stop_link}`.
        """
        return Request(
            "PUT",
            "consent",
            "/v1/senders/{sender_id}",
            answer=consent.SenderBody,
            names={"sender_id": sender_id},
            body={
                "legal_name": legal_name,
                "brand": brand,
                "contact": contact,
                "country": country,
                "oadc": oadc,
                "stop_code": stop_code,
                "purposes": purposes,
                "controller": controller,
                "stop_scope": stop_scope,
                "replies": replies,
                "double_opt_in_hours": double_opt_in_hours,
                "renewal_days": renewal_days,
                "abroad": abroad,
                "authorisation": authorisation,
                "reachable_in": reachable_in,
            },
        )

    @operation
    def get(self, sender_id: str) -> Request[consent.SenderBody]:
        """Return the sender in its present version."""
        return Request(
            "GET", "consent", "/v1/senders/{sender_id}", answer=consent.SenderBody, names={"sender_id": sender_id}
        )

    @listing
    def list_versions(
        self, sender_id: str, *, cursor: str | Omitted = OMITTED, limit: int | Omitted = OMITTED
    ) -> Request[Page[consent.SenderVersion]]:
        """List all versions of the sender from version 1 on: a consent refers to the version in force at its time.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "consent",
            "/v1/senders/{sender_id}/versions",
            answer=Page[consent.SenderVersion],
            names={"sender_id": sender_id},
            query={"cursor": cursor, "limit": limit},
        )


class Statistics(Resource[S]):
    """The statistics."""

    @operation
    def get(
        self, campaign_id: str, *, converts_within_days: int | Omitted = OMITTED
    ) -> Request[campaign.CampaignStatistics]:
        """Return a campaign's counts by variant, territory, hour, reason and link, and its conversions, as of one
        instant.

        Answers 410 once the recipients are no longer kept.

        `converts_within_days`: Conversions count from the start to so many days after the end.
        """
        return Request(
            "GET",
            "campaign",
            "/v1/campaigns/{campaign_id}/statistics",
            answer=campaign.CampaignStatistics,
            names={"campaign_id": campaign_id},
            query={"converts_within_days": converts_within_days},
        )

    @download
    def export_recipients(self, campaign_id: str) -> Request[bytes]:
        """Return all recipients as CSV, a line each, without numbers.

        The export reads page after page: a recipient's line shows the state at the time of reading. Answers 410
        once the recipients are no longer kept.
        """
        return Request(
            "GET", "campaign", "/v1/campaigns/{campaign_id}/recipients.csv", names={"campaign_id": campaign_id}
        )

    @operation
    def trace(
        self, campaign_id: str, *, number: str, country: str | Omitted | None = OMITTED
    ) -> Request[campaign.Trace]:
        """Return the course of one person's message in a campaign, found by the person's number.

        The trace shows whether the person was in the audience, the decision and its reasons, hand-off, DLR,
        clicks, and an opt-out in answer. Each trace is logged with the caller. Answers 410 once the recipients
        are no longer kept.

        `number`: A mobile number in any usual notation.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/campaigns/{campaign_id}/trace",
            answer=campaign.Trace,
            names={"campaign_id": campaign_id},
            body={"number": number, "country": country},
            reads=True,
        )


class Subjects(Resource[S]):
    """The subjects."""

    @operation
    def lookup(
        self,
        *,
        number: str,
        country: str | Omitted | None = OMITTED,
        as_of: consent_bodies.AsOfBody | Omitted | None = OMITTED,
    ) -> Request[consent.SubjectView]:
        """Return the consents, the suppressions and the newest 1,000 lines of evidence that the caller sees,
        newest last.

        With `as_of`, the answer covers events which had happened by `happened_by` and were on record by
        `known_by`. A caller sees the senders of its token, and, as facts, lines which concern every sender.
        Without any record of these senders, `version` is 0 and `held_since` null, whatever others have on
        record.

        `number`: A number in any notation with a digit.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.
        """
        return Request(
            "POST",
            "consent",
            "/v1/subjects/lookup",
            answer=consent.SubjectView,
            body={"number": number, "country": country, "as_of": as_of},
            reads=True,
        )


class Templates(Resource[S]):
    """The templates."""

    @operation
    def create(
        self,
        *,
        text: str,
        sender_id: str,
        name: str,
        category: Literal["transactional", "service"],
        fields: Sequence[campaign_bodies.FieldBody] | Omitted = OMITTED,
        language: str | Omitted = OMITTED,
        idempotency_key: str | None = None,
    ) -> Request[campaign.Template]:
        """Write a template with its first version, a draft: a second person has to approve the version.

        A repeat of the request with the same `Idempotency-Key` gets the first answer: the template with its
        draft.

        `text`: With {fields}.

        `fields`: Every field of the text, up to 10, each once.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `name`: The name of the template, for the people who work with it.

        `category`: The class of the messages, and their lane.

        `language`: ISO 639-1.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/templates",
            answer=campaign.Template,
            body={
                "text": text,
                "fields": fields,
                "sender_id": sender_id,
                "name": name,
                "category": category,
                "language": language,
            },
            keyed=True,
            idempotency_key=idempotency_key,
        )

    @listing
    def list(
        self, *, sender_id: str | Omitted = OMITTED, cursor: str | Omitted = OMITTED, limit: int | Omitted = OMITTED
    ) -> Request[Page[campaign.Template]]:
        """List the templates of the senders your token covers, newest first, each with its newest version.

        `sender_id`: Only things of this sender. Default: of every sender.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "campaign",
            "/v1/templates",
            answer=Page[campaign.Template],
            query={"sender_id": sender_id, "cursor": cursor, "limit": limit},
        )

    @operation
    def create_version(
        self,
        template_id: str,
        *,
        text: str,
        after: int,
        fields: Sequence[campaign_bodies.FieldBody] | Omitted = OMITTED,
    ) -> Request[campaign.Template]:
        """Write the next version, a draft. Approved versions stay in use until they are retired.

        `text`: With {fields}.

        `fields`: Every field of the text, up to 10, each once.

        `after`: The latest version known to the caller; 409 if a later version exists.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/templates/{template_id}/versions",
            answer=campaign.Template,
            names={"template_id": template_id},
            body={"text": text, "fields": fields, "after": after},
        )

    @operation
    def approve_version(
        self, template_id: str, number: int, *, acknowledge: Sequence[str] | Omitted = OMITTED
    ) -> Request[campaign.Template]:
        """Approve a version, so that messages may leave from the version.

        The approver is no author of this version, nor of an earlier one (403), and acknowledges each finding in
        the text by its id (409). A retired version stays retired.

        `acknowledge`: The ids of all findings of the version.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/templates/{template_id}/versions/{number}/approve",
            answer=campaign.Template,
            names={"template_id": template_id, "number": number},
            body={"acknowledge": acknowledge},
        )

    @operation
    def retire(self, template_id: str, *, version: int | Omitted | None = OMITTED) -> Request[campaign.Template]:
        """Retire one version, or every version so far.

        No message leaves from a retired version once dispatch-svc has the retirement: within a second as a
        rule, and later while Kafka or dispatch-svc is behind.

        `version`: Null: every version.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/templates/{template_id}/retire",
            answer=campaign.Template,
            names={"template_id": template_id},
            body={"version": version},
        )

    @operation
    def get(self, template_id: str) -> Request[campaign.Template]:
        """Return a template with every version, and the findings in each text."""
        return Request(
            "GET",
            "campaign",
            "/v1/templates/{template_id}",
            answer=campaign.Template,
            names={"template_id": template_id},
        )


class TestSends(Resource[S]):
    """The test sends."""

    @operation
    def create(
        self,
        campaign_id: str,
        *,
        numbers: Sequence[str],
        country: str | Omitted | None = OMITTED,
        variant: str | Omitted = OMITTED,
        attributes: Mapping[str, str] | Omitted = OMITTED,
        idempotency_key: str | None = None,
    ) -> Request[campaign.TestsSent]:
        """Request the message for all of these numbers, or for none if a number cannot be written to.

        Links appear as their full targets: the audience gets personal short links, dead before the campaign
        starts, whose clicks count for the campaign. A test may therefore be longer than the message. The same
        request under the same `Idempotency-Key` requests no more messages.

        `numbers`: The mobile numbers to send to, up to five, in any usual notation.

        `country`: The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2.
        Default: the sender's country and those abroad; without a sender, those of the senders that the token
        covers.

        `variant`: The variant of an A/B test; `a` is the campaign's own text.

        `attributes`: Attributes for a number without a contact.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/campaigns/{campaign_id}/test-sends",
            answer=campaign.TestsSent,
            names={"campaign_id": campaign_id},
            body={"numbers": numbers, "country": country, "variant": variant, "attributes": attributes},
            keyed=True,
            idempotency_key=idempotency_key,
        )

    @listing
    def list(
        self, campaign_id: str, *, cursor: str | Omitted = OMITTED, limit: int | Omitted = OMITTED
    ) -> Request[Page[campaign.Test]]:
        """List the tests and their authors, newest first.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "campaign",
            "/v1/campaigns/{campaign_id}/test-sends",
            answer=Page[campaign.Test],
            names={"campaign_id": campaign_id},
            query={"cursor": cursor, "limit": limit},
        )


class TextAudits(Resource[S]):
    """The text audits."""

    @listing
    def list(
        self, *, cursor: str | Omitted = OMITTED, limit: int | Omitted = OMITTED
    ) -> Request[Page[dispatch.TextAudit]]:
        """List texts that were refused, or left by an override, oldest first, of the senders your token covers.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "dispatch",
            "/v1/text-audits",
            answer=Page[dispatch.TextAudit],
            query={"cursor": cursor, "limit": limit},
        )


class Texts(Resource[S]):
    """The texts."""

    @operation
    def preview(
        self,
        *,
        sender_id: str,
        text: str,
        folding: Literal["none", "typographic", "accents", "names"] | Omitted = OMITTED,
        attributes: Mapping[str, str] | Omitted | None = OMITTED,
    ) -> Request[campaign.Preview]:
        """Render the text for this contact; a short sample without `attributes`, or if an attribute is missing.

        `sender_id`: The sender, by the id of its registration, such as `maison-lune`.

        `text`: {attribute}, {attribute|default}, {if attribute = value}…{else}…{end}, {link https://…} for a
        short link with counted clicks, {stop} for « STOP au » with the sender's code, and {preferences} for a
        personal link to the preference page.

        `attributes`: A contact's attributes. Default: the preview shows the shortest possible text.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/texts/preview",
            answer=campaign.Preview,
            body={"sender_id": sender_id, "text": text, "folding": folding, "attributes": attributes},
            reads=True,
        )


class Webhooks(Resource[S]):
    """The webhooks."""

    @operation
    def create(
        self,
        *,
        url: str,
        types: Sequence[
            Literal[
                "consent.changed",
                "consent.opted_out",
                "consent.opt_out_enforced",
                "review.waiting",
                "message.accepted",
                "message.delivered",
                "message.failed",
                "campaign.started",
                "campaign.paused",
                "campaign.resumed",
                "campaign.finished",
                "campaign.cancelled",
                "import.finished",
                "erasure.finished",
                "webhook.disabled",
                "webhook.test",
            ]
        ]
        | Omitted
        | None = OMITTED,
        sender_ids: Sequence[str] | Omitted | None = OMITTED,
        description: str | Omitted = OMITTED,
        idempotency_key: str | None = None,
    ) -> Request[campaign.WebhookWithSecret]:
        """Add a destination, which gets the events from now on. The answer has the secret of the signatures.

        A repeat of the request with the same `Idempotency-Key` gets the first answer, with the first secret.

        `url`: https, at a public address, without credentials or fragment.

        `types`: Null: every type.

        `sender_ids`: Only events of these senders; null, for a token of every sender, is every event of the
        organisation.

        `description`: A note of the caller, such as its system.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/webhooks",
            answer=campaign.WebhookWithSecret,
            body={"url": url, "types": types, "sender_ids": sender_ids, "description": description},
            keyed=True,
            idempotency_key=idempotency_key,
        )

    @listing
    def list(
        self, *, cursor: str | Omitted = OMITTED, limit: int | Omitted = OMITTED
    ) -> Request[Page[campaign.Webhook]]:
        """List the webhooks of your organisation about no other senders than your token's, oldest first.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET", "campaign", "/v1/webhooks", answer=Page[campaign.Webhook], query={"cursor": cursor, "limit": limit}
        )

    @operation
    def get(self, webhook_id: str) -> Request[campaign.Webhook]:
        """Return a webhook, and how its destination answers."""
        return Request(
            "GET", "campaign", "/v1/webhooks/{webhook_id}", answer=campaign.Webhook, names={"webhook_id": webhook_id}
        )

    @operation
    def update(
        self,
        webhook_id: str,
        *,
        url: str | Omitted | None = OMITTED,
        types: Sequence[
            Literal[
                "consent.changed",
                "consent.opted_out",
                "consent.opt_out_enforced",
                "review.waiting",
                "message.accepted",
                "message.delivered",
                "message.failed",
                "campaign.started",
                "campaign.paused",
                "campaign.resumed",
                "campaign.finished",
                "campaign.cancelled",
                "import.finished",
                "erasure.finished",
                "webhook.disabled",
                "webhook.test",
            ]
        ]
        | Omitted
        | None = OMITTED,
        description: str | Omitted | None = OMITTED,
        status: Literal["enabled", "paused"] | Omitted | None = OMITTED,
    ) -> Request[campaign.Webhook]:
        """Change a webhook. Other types count for events from now on.

        `status: enabled` begins at the first event not yet told, and makes every waiting delivery due.

        `url`: https, at a public address, without credentials or fragment.

        `types`: Null: every type.

        `description`: A note of the caller, such as its system.

        `status`: `enabled` also ends a rest after failures; `paused` keeps events for later.
        """
        return Request(
            "PATCH",
            "campaign",
            "/v1/webhooks/{webhook_id}",
            answer=campaign.Webhook,
            names={"webhook_id": webhook_id},
            body={"url": url, "types": types, "description": description, "status": status},
        )

    @operation
    def delete(self, webhook_id: str) -> Request[None]:
        """Delete a webhook and its delivery log. No delivery begins afterwards."""
        return Request("DELETE", "campaign", "/v1/webhooks/{webhook_id}", names={"webhook_id": webhook_id})

    @operation
    def rotate_secret(
        self, webhook_id: str, *, former_ends_in_s: int | Omitted = OMITTED
    ) -> Request[campaign.WebhookWithSecret]:
        """Give a webhook a new secret. For a while, each delivery has a signature by the former secret, too.

        `former_ends_in_s`: For so long, the former secret signs along.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/webhooks/{webhook_id}/rotate",
            answer=campaign.WebhookWithSecret,
            names={"webhook_id": webhook_id},
            body={"former_ends_in_s": former_ends_in_s},
        )

    @operation
    def test(self, webhook_id: str) -> Request[campaign.Asked]:
        """Send an event `webhook.test` to this webhook alone; the delivery log has the outcome."""
        return Request(
            "POST",
            "campaign",
            "/v1/webhooks/{webhook_id}/test",
            answer=campaign.Asked,
            names={"webhook_id": webhook_id},
        )

    @listing
    def list_deliveries(
        self,
        webhook_id: str,
        *,
        state: Literal["waiting", "delivered", "failed"] | Omitted = OMITTED,
        cursor: str | Omitted = OMITTED,
        limit: int | Omitted = OMITTED,
    ) -> Request[Page[campaign.Delivery]]:
        """List a webhook's deliveries, newest event first. The log has the events of the last days.

        `state`: Only deliveries in this state.

        `cursor`: `next` of the page before.

        `limit`: Items of a page at most.
        """
        return Request(
            "GET",
            "campaign",
            "/v1/webhooks/{webhook_id}/deliveries",
            answer=Page[campaign.Delivery],
            names={"webhook_id": webhook_id},
            query={"state": state, "cursor": cursor, "limit": limit},
        )

    @operation
    def replay(
        self, webhook_id: str, *, since: dt.datetime, failed_only: bool | Omitted = OMITTED
    ) -> Request[campaign.Replayed]:
        """Send settled deliveries again, under the same event ids.

        `since`: Of events stored since.

        `failed_only`: False: delivered ones, too.
        """
        return Request(
            "POST",
            "campaign",
            "/v1/webhooks/{webhook_id}/replay",
            answer=campaign.Replayed,
            names={"webhook_id": webhook_id},
            body={"since": since, "failed_only": failed_only},
        )

    @operation
    def replay_delivery(self, webhook_id: str, event_id: str) -> Request[campaign.Replayed]:
        """Send a settled delivery again, under the same event id."""
        return Request(
            "POST",
            "campaign",
            "/v1/webhooks/{webhook_id}/deliveries/{event_id}/replay",
            answer=campaign.Replayed,
            names={"webhook_id": webhook_id, "event_id": event_id},
        )


class Resources(Generic[S]):
    """All resources of a client."""

    def __init__(self, session: S) -> None:
        self.approvals = Approvals(session)
        self.attributes = Attributes(session)
        self.audit = Audit(session)
        self.campaigns = Campaigns(session)
        self.consent_imports = ConsentImports(session)
        self.consent_timelines = ConsentTimelines(session)
        self.consents = Consents(session)
        self.contact_imports = ContactImports(session)
        self.contact_timelines = ContactTimelines(session)
        self.contacts = Contacts(session)
        self.conversions = Conversions(session)
        self.copies = Copies(session)
        self.dead_letters = DeadLetters(session)
        self.double_opt_ins = DoubleOptIns(session)
        self.endings = Endings(session)
        self.enforcements = Enforcements(session)
        self.erasures = Erasures(session)
        self.events = Events(session)
        self.interactions = Interactions(session)
        self.keys = Keys(session)
        self.message_timelines = MessageTimelines(session)
        self.messages = Messages(session)
        self.opt_outs = OptOuts(session)
        self.pre_flights = PreFlights(session)
        self.preference_links = PreferenceLinks(session)
        self.proofs = Proofs(session)
        self.provider_blocks = ProviderBlocks(session)
        self.receipts = Receipts(session)
        self.reconciliations = Reconciliations(session)
        self.rectifications = Rectifications(session)
        self.reopening_rules = ReopeningRules(session)
        self.replies = Replies(session)
        self.reports = Reports(session)
        self.retroactive_messages = RetroactiveMessages(session)
        self.reviews = Reviews(session)
        self.seals = Seals(session)
        self.segments = Segments(session)
        self.sender_rules = SenderRules(session)
        self.senders = Senders(session)
        self.statistics = Statistics(session)
        self.subjects = Subjects(session)
        self.templates = Templates(session)
        self.test_sends = TestSends(session)
        self.text_audits = TextAudits(session)
        self.texts = Texts(session)
        self.webhooks = Webhooks(session)
