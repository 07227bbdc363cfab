"""`python -m dispatch [migrate]`; `python -m dispatch replay`, which needs PLACET_DATABASE_URL and no other setting."""

import sys

from common.service import main
from dispatch import replay
from dispatch.service import build

if sys.argv[1:2] == ["replay"]:
    sys.exit(replay.run(sys.argv[2:]))
main(build)
