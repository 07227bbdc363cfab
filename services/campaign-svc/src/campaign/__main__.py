"""Run the service: `python -m campaign [migrate | settings --check]`."""

from campaign.service import MOVES, Settings, build
from common.command import main

main(build, Settings, MOVES)
