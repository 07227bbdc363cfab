"""Run `python -m consent [COMMAND]`, a command of every service or one of these.

`republish --partition N…`, `erase-again --since INSTANT`, `divide`, `verify`, `verify-bundle FILE`.

`verify` needs only the settings PLACET_DATABASE_URL and PLACET_SUBJECT_KEYS; `verify-bundle` needs no setting and no
database.
"""

import sys

from common import division
from common.command import main, settings_of
from consent.division import TABLES
from consent.ledger import republishing
from consent.proof import verify_bundle, verify_ledger
from consent.rights import erasing_again
from consent.service import MOVES, Settings, build

if sys.argv[1:2] == ["verify-bundle"]:
    sys.exit(verify_bundle.run(sys.argv[2:]))
if sys.argv[1:2] == ["verify"]:
    sys.exit(verify_ledger.run(sys.argv[2:]))
if sys.argv[1:2] == ["republish"]:
    sys.exit(republishing.run(settings_of(Settings), sys.argv[2:]))
if sys.argv[1:2] == ["erase-again"]:
    sys.exit(erasing_again.run(settings_of(Settings), sys.argv[2:]))
if sys.argv[1:2] == ["divide"]:
    sys.exit(division.run(TABLES, settings_of(Settings), sys.argv[2:]))
main(build, Settings, MOVES)
