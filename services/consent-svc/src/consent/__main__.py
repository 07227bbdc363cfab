"""`python -m consent [migrate]`, and `python -m consent verify-bundle FILE`, which needs no setting and no database."""

import sys

from common.service import main
from consent import verify_bundle
from consent.service import build

if sys.argv[1:2] == ["verify-bundle"]:
    sys.exit(verify_bundle.run(sys.argv[2:]))
main(build)
