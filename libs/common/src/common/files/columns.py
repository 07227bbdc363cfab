"""Take the columns of a file for what they are: one table of titles, French and English. Pure.

A title is compared by its letters and digits, without accents and case. Each meaning lists its titles by precedence.

Shops: Shopify's customers (help.shopify.com/en/manual/customers/import-export-customers), PrestaShop's addresses and
customers (github.com/PrestaShop/PrestaShop, docs/csv_import) and WooCommerce's users
(woocommerce.com/document/import-and-export-of-woocommerce-users). Consents to e-mail, dates of registration and
PrestaShop's `Opt-in`, which is for offers of partners by e-mail, are no consent to SMS and never taken for one.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from common.files.refused import WrongColumns

Kind = Literal["consents", "suppressions", "contacts", "provider_list"]

MAX_COLUMNS = 400  # of any file


class Meaning(StrEnum):
    """The content of a column. `OF_NO_USE`: known, and never read as a consent."""

    NUMBER = "number"
    OTHER_NUMBER = "other_number"
    SUBJECT_ID = "subject_id"
    COUNTRY = "country"
    KIND = "kind"
    ACCEPTS_SMS = "accepts_sms"
    PURPOSE = "purpose"
    BASIS = "basis"
    OCCURRED_AT = "occurred_at"
    OPTED_OUT_AT = "opted_out_at"
    FORM_ID = "form_id"
    FORM_VERSION = "form_version"
    TEXT_SHOWN = "text_shown"
    ACTOR = "actor"
    SALE_REFERENCE = "sale_reference"
    OF_NO_USE = "of_no_use"
    UNKNOWN = "unknown"


# By precedence. Other number columns are dropped: numbers are encrypted at rest, attributes are not.
NUMBER_TITLES = (
    "msisdn",
    "mobile",
    "mobile_number",
    "mobile_phone",
    "phone_mobile",
    "numero_mobile",
    "numero_de_mobile",
    "telephone_mobile",
    "tel_mobile",
    "portable",
    "numero_portable",
    "numero_de_portable",
    "telephone_portable",
    "tel_portable",
    "gsm",
    "cell",
    "cellphone",
    "cell_phone",
    "number",
    "phone_number",
    "phone",
    "numero_de_telephone",
    "numero_telephone",
    "numero_tel",
    "num_tel",
    "n_de_telephone",
    "n_telephone",
    "n_tel",
    "numero",
    "telephone",
    "tel",
    "billing_phone",
    "telephone_de_facturation",
    "default_address_phone",
    "shipping_phone",
    "telephone_de_livraison",
)

_PROVIDER_TITLES = ("to", "from", "recipient", "destinataire")  # of the lists of providers alone

_ACCEPTS_SMS = (
    "accepts_sms_marketing",
    "accepts_sms",
    "sms_marketing",
    "sms_consent",
    "accepte_les_sms",
    "accepte_sms",
    "consentement_sms",
)

_EVIDENCE: Mapping[Meaning, Sequence[str]] = {
    Meaning.SUBJECT_ID: ("subject_id",),
    # by whose plan the number is written; a column `country` of a shop is of an address, and names no plan
    Meaning.COUNTRY: ("number_country", "country_of_number", "pays_du_numero"),
    Meaning.KIND: ("kind", "sens", "opt_in_ou_opt_out"),
    Meaning.ACCEPTS_SMS: _ACCEPTS_SMS,
    Meaning.PURPOSE: ("purpose", "finalite"),
    Meaning.BASIS: ("basis", "base_legale"),
    Meaning.FORM_ID: ("form_id", "formulaire"),
    Meaning.FORM_VERSION: ("form_version", "version_du_formulaire"),
    Meaning.TEXT_SHOWN: ("text_shown", "texte_affiche"),
    Meaning.ACTOR: ("actor", "auteur"),
    Meaning.SALE_REFERENCE: ("sale_reference", "reference_de_vente", "reference_de_la_vente"),
}
_AT = ("occurred_at",)
_CONSENTED_AT = ("consented_at", "consent_date", "opted_in_at", "date_de_consentement", "date_du_consentement")
_OPTED_OUT_AT = (
    "opted_out_at",
    "unsubscribed_at",
    "opt_out_date",
    "date_de_desinscription",
    "date_de_desabonnement",
    "date_du_stop",
)

# Titles that shops give to the data of customers
_OF_NO_USE = frozenset(
    """
    accepts_email_marketing active active_0_1 address address_1 address_2 address_id adresse alias anniversaire
    billing_address_1 billing_address_2 billing_city billing_company billing_country billing_email
    billing_first_name billing_last_name billing_postcode billing_state birthday birthday_yyyy_mm_dd city
    civilite code_postal company country cp customer_e_mail customer_id date_de_naissance
    default_address_address1 default_address_address2 default_address_city default_address_company
    default_address_country_code default_address_province_code default_address_zip default_group_id display_name
    dni e_mail email email_address first_name firstname groups_x_y_z id id_client lang language langue last_name
    lastname locale manufacturer newsletter newsletter_0_1 nickname nom nom_de_famille note notes opt_in_0_1
    other password pays postcode prenom province province_code registration_date_yyyy_mm_dd roles
    shipping_address_1 shipping_address_2 shipping_city shipping_company shipping_country shipping_first_name
    shipping_last_name shipping_postcode shipping_state social_title societe state supplier tags tax_exempt
    titles_id_mr_1_ms_2_else_0 total_orders total_spent user_email user_login user_nicename user_registered
    user_url vat_number ville zip zip_code zipcode
    """.split()  # noqa: SIM905
)


def titles_of(kind: Kind) -> dict[str, Meaning]:
    """Return the meaning of each known title in a file of this kind.

    In a suppression list the date of a consent is no date of an opt-out; among consents the date of an opt-out is no
    date of a consent, and speaks against the line.
    """
    known = dict.fromkeys(NUMBER_TITLES, Meaning.NUMBER)
    if kind == "provider_list":
        known |= dict.fromkeys(_PROVIDER_TITLES, Meaning.NUMBER)
    if kind in ("consents", "suppressions"):
        known |= {title: meaning for meaning, titles in _EVIDENCE.items() for title in titles}
        known |= dict.fromkeys(_AT, Meaning.OCCURRED_AT)
        listed = kind == "suppressions"
        known |= dict.fromkeys(_CONSENTED_AT, Meaning.OF_NO_USE if listed else Meaning.OCCURRED_AT)
        known |= dict.fromkeys(_OPTED_OUT_AT, Meaning.OCCURRED_AT if listed else Meaning.OPTED_OUT_AT)
        known |= dict.fromkeys(_OF_NO_USE, Meaning.OF_NO_USE)
    return known


@dataclass(frozen=True, slots=True)
class Taken:
    """A column with its meaning. `name`: the title as compared; `place` counts from 1."""

    place: int
    title: str
    name: str
    meaning: Meaning


def plain(title: str, length: int = 40) -> str:
    """Return a title as compared, and as templates name an attribute: « Code postal » is code_postal."""
    ascii_alone = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "_", ascii_alone).strip("_")[:length]


def taken(titles: Sequence[str], kind: Kind) -> list[Taken]:
    """Return each column with its meaning. Raises WrongColumns, which repeats no title.

    Of several columns of numbers the first by precedence counts; of any other meaning there is one column.
    """
    if len(titles) > MAX_COLUMNS:
        raise WrongColumns("too_many_columns", f"{len(titles)} columns, at most {MAX_COLUMNS}")
    known = titles_of(kind)
    names = [plain(title) for title in titles]
    number = number_of(names, known)
    found = []
    for place, (title, name) in enumerate(zip(titles, names, strict=True)):
        meaning = known.get(name, Meaning.UNKNOWN)
        if meaning is Meaning.NUMBER and place != number:
            meaning = Meaning.OTHER_NUMBER
        found.append(Taken(place + 1, title.strip(), name, meaning))
    counted = [each.meaning for each in found if each.meaning not in _MANY]
    if len(set(counted)) < len(counted) or names.count(names[number] if number is not None else "") > 1:
        raise WrongColumns("column_twice", "two columns of the header mean the same: keep one of them")
    return found


_MANY = (Meaning.OTHER_NUMBER, Meaning.OF_NO_USE, Meaning.UNKNOWN)


def number_of(names: Sequence[str], known: Mapping[str, Meaning]) -> int | None:
    """Return the column of the number to write to, by precedence."""
    found = (names.index(name) for name, meaning in known.items() if meaning is Meaning.NUMBER and name in names)
    return next(found, None)
