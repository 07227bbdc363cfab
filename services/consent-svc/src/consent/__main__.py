"""`python -m consent [migrate]`."""

from common.service import main
from consent.service import build

main(build)
