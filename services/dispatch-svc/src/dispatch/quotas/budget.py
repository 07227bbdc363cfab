"""Charge messages to the messages of a day and the spend of a month, of their organisation and token.

A message counts once, on the day of its acceptance: requested over HTTP, with the answer; of a campaign, with the
first verdict that does not deny the message. An accepted or deferred message stays counted if it is denied later.
Answers to people (STOP, CONTACT, double opt-in) never count: no limit holds them back.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.allowances import Allowances, Charge
from common.db.database import once_undone
from common.limits import Limited, Limits, Quota, day_of, month_of
from common.web.auth.rates import REFUSED, holder_of
from dispatch.messages.reasons import Reason

OWN = "token_"  # prefix of a token's own limits
OF_A_LIMIT = frozenset((Reason.MESSAGES_PER_DAY, Reason.SPEND_PER_MONTH, Reason.PRICE_UNKNOWN, Reason.NO_LEASE))


@dataclass(frozen=True, slots=True)
class Over:
    """A refusal: the reason, and the window of the limit; without one, until the operator changes the limits."""

    reason: Reason
    limit: str
    since: datetime | None
    until: datetime | None
    own: bool = False  # of the token
    short: bool = False  # the lease alone is too small: the limit may have more

    @property
    def name(self) -> str:
        return f"{OWN if self.own else ''}{self.reason}"


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of every organisation, with their counts."""

    allowances: Allowances
    limited: Limited

    def purse(self, organisation: str, now: datetime, own: Limits | None = None, account: str = "") -> "Purse":
        """Return the means of an organisation at `now`. `own`: the narrower limits of a token with this account."""
        return Purse(self, self.limited.of(organisation), organisation, now, own, account)


@dataclass(slots=True)
class Purse:
    """The means of an organisation, or of its token, for one batch of messages."""

    budget: Budget
    limits: Limits
    organisation: str
    now: datetime
    own: Limits | None
    account: str
    _days: list[Quota] = field(init=False)
    _months: list[Quota] = field(init=False)
    _one: list[Charge] = field(init=False)
    _wanted: int = 0
    _costs: int = 0
    _stocked: bool = True
    _prepaid: int = 0  # messages paid in advance, before their verdicts
    _paid: Counter[Quota] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        held = [("", self.organisation, self.limits)]
        if self.own is not None:
            held.append((OWN, holder_of(self.account), self.own))
        days, months = day_of(self.now), month_of(self.now)
        self._days = [
            Quota(f"{of}{Reason.MESSAGES_PER_DAY}", holder, limits.messages_per_day, *days)
            for of, holder, limits in held
            if limits.messages_per_day is not None
        ]
        self._months = [
            Quota(f"{of}{Reason.SPEND_PER_MONTH}", holder, limits.spend, *months)
            for of, holder, limits in held
            if limits.spend is not None
        ]
        self._one = [Charge(quota, 1) for quota in self._days]

    @property
    def days(self) -> list[Quota]:
        return self._days

    @property
    def unlimited(self) -> bool:
        return not self._days and not self._months

    @property
    def spends(self) -> bool:
        """Return whether a spend is limited."""
        return bool(self._months)

    def expect(self, cost: int | None, many: int = 1) -> None:
        """Note messages that `pay` may follow for, so that `stock` leases for the whole batch at once."""
        self._wanted += many
        self._costs += cost or 0

    async def stock(self) -> None:
        await self.budget.allowances.stock(self._expected())

    async def stock_within(self, within_s: float) -> None:
        """Lease for the whole batch as `stock`, but wait no longer than this: `pay_from_leases` then finds less.

        Without a limit of spend the whole batch is paid here in advance, where the leases suffice. `return_prepaid`
        ends that.
        """
        expected = self._expected()
        self._stocked = await self.budget.allowances.stock_within(expected, within_s)
        if expected and not self._months and self.budget.allowances.take(expected) is None:
            self._prepaid = self._wanted
            self._note_paid(expected)

    def _expected(self) -> list[Charge]:
        if not self._wanted:
            return []
        charges = [Charge(quota, self._wanted) for quota in self._days]
        return charges + [Charge(quota, self._costs) for quota in self._months if self._costs]

    def take_prepaid(self) -> bool:
        """Take one of the messages paid in advance; return False if none is left: then `pay_from_leases`."""
        if not self._prepaid:
            return False
        self._prepaid -= 1
        return True

    def return_prepaid(self) -> None:
        """Give back the messages paid in advance and not taken."""
        self._return([Charge(quota, self._prepaid) for quota in self._days if self._prepaid])
        self._prepaid = 0

    def pay_from_leases(self, cost: int | None) -> Over | None:
        """Count a message out of the leases, without a wait: the caller holds locks."""
        if (charges := self._charges(cost)) is None:
            return self._unpriced()
        return self._paid_or_refused(charges, self.budget.allowances.take(charges))

    async def pay(self, cost: int | None) -> Over | None:
        """Count a message, unless a limit refuses it."""
        if (charges := self._charges(cost)) is None:
            return self._unpriced()
        return self._paid_or_refused(charges, await self.budget.allowances.use(charges))

    def _charges(self, cost: int | None) -> list[Charge] | None:
        """Return the charges of a message; `None`: a price is needed and unknown.

        The month comes first: the first exhausted quota refuses, and the month's refusal lasts longer.
        """
        if not self._months:
            return self._one
        return None if cost is None else [*(Charge(quota, cost) for quota in self._months), *self._one]

    def _unpriced(self) -> Over:
        return self._refused(Over(Reason.PRICE_UNKNOWN, "no price", None, None))

    def _paid_or_refused(self, charges: list[Charge], refused: Quota | None) -> Over | None:
        if refused is None:
            self._note_paid(charges)
            return None
        name = Reason(refused.name.removeprefix(OWN))
        stated = self.own if refused.name.startswith(OWN) and self.own is not None else self.limits
        limit = str(refused.limit) if name is Reason.MESSAGES_PER_DAY else f"{stated.spend_per_month} EUR"
        short = not (self._stocked and self.budget.allowances.was_empty(refused))
        return self._refused(Over(name, limit, refused.since, refused.until, own=stated is self.own, short=short))

    def _refused(self, over: Over) -> Over:
        if not over.short:
            REFUSED.labels(over.name).inc()
        return over

    def undo_with(self, tx: AsyncConnection) -> None:
        """Give back every payment if `tx` fails."""
        once_undone(tx, lambda: self._return([Charge(*each) for each in self._paid.items()]))

    def give_back(self, cost: int) -> None:
        """Give back the payment of a message that was on record already."""
        self._return([*self._one, *(Charge(quota, cost) for quota in self._months)])

    def _note_paid(self, charges: Sequence[Charge]) -> None:
        for quota, many in charges:
            self._paid[quota] += many

    def _return(self, charges: Sequence[Charge]) -> None:
        self.budget.allowances.give_back(charges)
        for quota, many in charges:
            self._paid[quota] -= many
