"""Run `python -m consent [migrate | settings --check | republish --partition N | verify | verify-bundle FILE]`.

`verify` needs only the setting PLACET_DATABASE_URL; `verify-bundle` needs no setting and no database."""

import sys

from common.command import main, settings_of
from consent.ledger import republishing
from consent.proof import verify_bundle, verify_ledger
from consent.service import Settings, build

if sys.argv[1:2] == ["verify-bundle"]:
    sys.exit(verify_bundle.run(sys.argv[2:]))
if sys.argv[1:2] == ["verify"]:
    sys.exit(verify_ledger.run(sys.argv[2:]))
if sys.argv[1:2] == ["republish"]:
    sys.exit(republishing.run(settings_of(Settings), sys.argv[2:]))
main(build, Settings)
