"""Run `python -m inbound [migrate]`."""

from common.service import main
from inbound.service import build

main(build)
