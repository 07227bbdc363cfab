"""Run the service: `python -m campaign [migrate | settings --check | divide]`."""

import sys

from campaign.senders.division import TABLES
from campaign.service import MOVES, Settings, build
from common import division
from common.command import main, settings_of

if sys.argv[1:2] == ["divide"]:
    sys.exit(division.run(TABLES, settings_of(Settings), sys.argv[2:]))
main(build, Settings, MOVES)
