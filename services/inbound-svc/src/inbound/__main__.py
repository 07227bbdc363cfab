"""Run `python -m inbound [migrate | settings --check | divide]`."""

import sys

from common import division
from common.command import main, settings_of
from common.privacy.moving import Moves
from inbound.division import TABLES
from inbound.service import Settings, build

if sys.argv[1:2] == ["divide"]:
    sys.exit(division.run(TABLES, settings_of(Settings), sys.argv[2:]))
main(build, Settings, Moves(unless=division.DIVIDED))
