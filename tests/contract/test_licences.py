"""docs/licences.md has each package of a service, under a licence that Placet may be handed on with."""

import re

from tests.contract.licences import PAGE, licence_of, page, pinned

# permissive, or of weak copyleft that ends at the package
ACCEPTED = re.compile(r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|Mozilla|MPL|Unlicense|0BSD|Zlib|CC0", re.I)
REFUSED = re.compile(r"AGPL|SSPL|Affero|BUSL|Commons Clause|Proprietary", re.I)


def test_the_page_has_each_package_of_a_service() -> None:
    assert len(pinned()) > 30
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make licences`"


def test_each_licence_is_accepted() -> None:
    licences = {name: licence_of(name) for name in pinned()}
    assert {name: each for name, each in licences.items() if not ACCEPTED.search(each) or REFUSED.search(each)} == {}
