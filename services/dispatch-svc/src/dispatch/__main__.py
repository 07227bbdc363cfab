"""Run `python -m dispatch [migrate | rebuild]`, or `python -m dispatch replay`.

`replay` needs only the setting PLACET_DATABASE_URL.
"""

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
