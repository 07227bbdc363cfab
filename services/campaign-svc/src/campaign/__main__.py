"""Run the service: `python -m campaign [migrate]`."""

from campaign.service import build
from common.service import main

main(build)
