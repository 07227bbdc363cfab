"""The reasons of a verdict or an outcome, as a message's row and its events name them. Pure."""

from enum import StrEnum


class Reason(StrEnum):
    """Stable names: API values, metric labels and test names."""

    # denials
    NO_CONSENT = "no_consent"
    OTHER_CONTROLLER = "other_controller"
    CONSENT_PENDING = "consent_pending"
    CONSENT_EXPIRED = "consent_expired"
    OPTED_OUT = "opted_out"
    SUPPRESSED = "suppressed"
    ERASED = "erased"
    CONSENT_UNREADABLE = "consent_unreadable"
    NO_EVIDENCE = "no_evidence"
    NO_PURPOSE = "no_purpose"
    UNKNOWN_SENDER = "unknown_sender"
    UNKNOWN_PURPOSE = "unknown_purpose"
    COUNTRY_NOT_COVERED = "country_not_covered"  # no rules for the country
    SENDER_NOT_ALLOWED_THERE = "sender_not_allowed_there"  # by the sender's registration
    ADVERTISING_MARK_MISSING = "advertising_mark_missing"  # the law there requires a leading word (Spain: PUBLI)
    NO_MEANS_TO_STOP_THERE = "no_means_to_stop_there"  # in the text, of those that work in the place
    HOLIDAYS_UNKNOWN_THERE = "holidays_unknown_there"  # for the day
    FREQUENCY_CAP = "frequency_cap"
    STOP_MENTION_MISSING = "stop_mention_missing"
    CAMPAIGN_CANCELLED = "campaign_cancelled"
    REQUEST_UNREADABLE = "request_unreadable"
    SUBJECT_MISMATCH = "subject_mismatch"
    FOREIGN_LINK = "foreign_link"  # in the text: a stop or preference link that is not this person's valid one
    CANNOT_BE_WRITTEN = "cannot_be_written"  # corrected personal data left no text
    TEMPLATE_RETIRED = "template_retired"  # since the request
    PROVIDER_BLOCK = "provider_block"
    PLACE_NOT_ALLOWED = "place_not_allowed"  # by the limits of the organisation
    PRICE_UNKNOWN = "price_unknown"  # there is a limit of spend, and no price for the place
    # denials where the limit opens after `send_before`, else delays
    MESSAGES_PER_DAY = "messages_per_day"
    SPEND_PER_MONTH = "spend_per_month"
    # delays
    SERVICE_STOPPING = "service_stopping"
    CONSENT_STALE = "consent_stale"
    KNOWLEDGE_BEHIND = "knowledge_behind"
    UNDER_REVIEW = "under_review"
    QUIET_HOURS = "quiet_hours"
    CLOSED_WEEKDAY = "closed_weekday"
    PUBLIC_HOLIDAY = "public_holiday"
    CAMPAIGN_PAUSED = "campaign_paused"
    CAMPAIGN_UNKNOWN = "campaign_unknown"
    NO_LEASE = "no_lease"  # in time, of a limit that may have room
    GATEWAY_UNREACHABLE = "gateway_unreachable"
    GATEWAY_THROTTLED = "gateway_throttled"
    GATEWAY_NEEDS_SOMEBODY = "gateway_needs_somebody"  # account, money or sender
    NO_ROUTE = "no_route"  # for this place, sender, category and text
    # neither
    SEND_BEFORE_PASSED = "send_before_passed"
