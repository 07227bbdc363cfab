"""The shop's settings, from the environment, and the forms that its customers see."""

import os
from dataclasses import dataclass, field
from pathlib import Path

FORM = "checkout"
# By version, each wording that was ever shown: a page that was open during a deployment proves the wording it showed.
WORDINGS = {
    "1": "J'accepte de recevoir par SMS les offres de Maison Lune. Je peux arrêter quand je veux, en répondant STOP.",
}
VERSION = "1"  # shown now


@dataclass(frozen=True)
class Settings:
    """The variables: SHOP_URL (this shop's address, as Placet reaches it), SHOP_STAFF_PASSWORD, SHOP_DATABASE,
    SHOP_SENDER, SHOP_PURPOSE, SHOP_CATCH_UP_EVERY_S; and those of placet-client: PLACET_TOKEN, PLACET_CONSENT_URL,
    PLACET_CAMPAIGN_URL.
    """

    url: str
    staff_password: str = field(repr=False)
    database: Path = Path("shop.sqlite3")
    sender: str = "maison-lune"
    purpose: str = "promotions"
    catch_up_every_s: float = 60.0

    @classmethod
    def from_environment(cls) -> "Settings":
        told = os.environ
        return cls(
            url=told["SHOP_URL"].rstrip("/"),
            staff_password=told["SHOP_STAFF_PASSWORD"],
            database=Path(told.get("SHOP_DATABASE", cls.database)),
            sender=told.get("SHOP_SENDER", cls.sender),
            purpose=told.get("SHOP_PURPOSE", cls.purpose),
            catch_up_every_s=float(told.get("SHOP_CATCH_UP_EVERY_S", cls.catch_up_every_s)),
        )
