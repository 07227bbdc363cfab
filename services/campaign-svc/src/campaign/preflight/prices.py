"""Price an SMS from a table given by the deployment (`PLACET_PRICES`). Pure.

    {"version": "2026-11", "currency": "EUR",
     "per_part": {"FR": "0.045", "GP": "0.062"},
     "senders": {"maison-lune": {"FR": "0.041"}}}

Prices are per part and territory; a sender's own price comes first. A message without a price counts as unpriced.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Price = Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=6)]
Table = dict[Annotated[str, Field(pattern=r"^[A-Z]{2}$")], Price]


class Prices(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = "none"
    currency: str = Field("EUR", pattern=r"^[A-Z]{3}$")
    per_part: Table = {}
    senders: dict[str, Table] = {}

    def of(self, sender_id: str, territory: str) -> Decimal | None:
        """Return the price of one part, if any."""
        own: Mapping[str, Decimal] = self.senders.get(sender_id, {})
        return own.get(territory, self.per_part.get(territory))
