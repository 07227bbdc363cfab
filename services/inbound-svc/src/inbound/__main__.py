"""Run `python -m inbound [migrate | settings --check]`."""

from common.command import main
from common.privacy.moving import Moves
from inbound.service import Settings, build

main(build, Settings, Moves())
