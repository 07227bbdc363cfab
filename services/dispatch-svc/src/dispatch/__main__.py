"""`python -m dispatch [migrate | rebuild]`; `python -m dispatch replay`, which needs PLACET_DATABASE_URL and no other
setting."""

import sys

from common.service import main
from dispatch.audit import replay
from dispatch.projection import rebuild as rebuilding
from dispatch.service import Settings, build

if sys.argv[1:2] == ["replay"]:
    sys.exit(replay.run(sys.argv[2:]))
if sys.argv[1:2] == ["rebuild"]:
    sys.exit(rebuilding.run(Settings(), sys.argv[2:]))
main(build)
