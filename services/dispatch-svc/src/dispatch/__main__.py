"""Run `python -m dispatch [migrate | settings --check | rebuild | divide]`, or `python -m dispatch replay`.

`replay` needs only the setting PLACET_DATABASE_URL.
"""

import sys

from common import division
from common.command import main, settings_of
from dispatch.audit import replay
from dispatch.division import TABLES
from dispatch.projection import rebuild as rebuilding
from dispatch.service import MOVES, Settings, build

if sys.argv[1:2] == ["replay"]:
    sys.exit(replay.run(sys.argv[2:]))
if sys.argv[1:2] == ["rebuild"]:
    sys.exit(rebuilding.run(settings_of(Settings), sys.argv[2:]))
if sys.argv[1:2] == ["divide"]:
    sys.exit(division.run(TABLES, settings_of(Settings), sys.argv[2:]))
main(build, Settings, MOVES)
