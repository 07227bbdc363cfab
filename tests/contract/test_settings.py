"""docs/settings.md lists every setting of the code as the code has it, each with its meaning."""

import pytest

from tests.contract.settings import PAGE, PARTS, ROLES, SERVICES, UNITS, Setting, page, settings

EVERY = {each.name: each for part in PARTS for each in settings(part)}


def test_the_page_says_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make reference`"


def test_every_setting_of_every_service_is_there_once() -> None:
    listed = [(each.services, each.name) for part in PARTS for each in settings(part)]
    assert len(listed) == len(set(listed))
    fields = {name for kind in SERVICES.values() for name in kind.model_fields}
    assert set(EVERY) == fields
    assert set(ROLES) | set(UNITS) <= fields, "a row of ROLES or UNITS names no setting"


@pytest.mark.parametrize("setting", EVERY.values(), ids=lambda each: each.name)
def test_a_setting_has_a_meaning_and_a_number_has_a_unit(setting: Setting) -> None:
    assert setting.meaning.endswith("."), "write a docstring below the field"
    assert "|" not in setting.meaning
    if "number" in setting.type and setting.name not in ("port", "nice"):
        assert setting.unit, "name the unit by the suffix, or in UNITS"


def test_what_holds_a_key_or_a_password_is_secret() -> None:
    assert {name for name, each in EVERY.items() if each.secret} == {
        *("database_url", "kafka_password", "subject_keys", "field_keys", "link_keys", "auth_key", "signing_keys"),
        *("provider_accounts", "ovh_services", "gateways", "gateway_token", "shards"),
    }
