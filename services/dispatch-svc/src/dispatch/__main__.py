"""`python -m dispatch [migrate]`."""

from common.service import main
from dispatch.service import build

main(build)
