"""A development token for every sender of an organisation, signed with the key of consent-svc. The host needs nothing:

docker compose exec -T consent python - < deploy/compose/token.py
docker compose exec -T consent python - stack.env < deploy/compose/token.py > .placet/compose.env   # and where to call
"""

import os
import sys
import time
from pathlib import Path

import jwt

SCOPES = (
    "sender:read sender:write sender:reopen consent:read consent:write contact:read contact:write"
    " campaign:read campaign:write campaign:approve campaign:rules campaign:trace"
    " message:send:transactional message:send:service message:send:marketing"
    " message:send:free_text message:send:override template:read template:write template:approve"
    " message:read message:write review:read review:write"
    " erasure:read erasure:write copy:read copy:write rectification:read rectification:write"
    " dead-letter:read dead-letter:write event:read webhook:read webhook:write audit:read platform:admin"
)
ONE_DAY_S = 86_400

TENANT_SCOPES = " ".join(s for s in SCOPES.split() if s not in ("platform:admin", "message:send:override"))


def token(organisation: str, subject: str, scopes: str) -> str:
    key = (Path(os.environ["PLACET_SECRETS_DIR"]) / "placet_auth_key").read_text().strip()
    now = int(time.time())
    claims = {
        "sub": subject,
        "organisation": organisation,
        "scope": scopes,
        "senders": "*",
        "iss": os.environ["PLACET_AUTH_ISSUER"],
        "aud": os.environ["PLACET_AUTH_AUDIENCE"],
        "iat": now,
        "exp": now + ONE_DAY_S,
    }
    return jwt.encode(claims, key, algorithm="HS256")


if sys.argv[1:] == ["stack.env"]:
    for port, name in enumerate(("CONSENT", "INBOUND", "CAMPAIGN", "DISPATCH", "SIMULATOR"), start=8001):
        sys.stdout.write(f"{name}_URL=http://127.0.0.1:{port}\n")
    sys.stdout.write(f"TOKEN={token('development', 'developer', SCOPES)}\n")
    sys.stdout.write(f"COLLEAGUE_TOKEN={token('development', 'colleague', SCOPES)}\n")
    sys.stdout.write(f"NEIGHBOUR_TOKEN={token('neighbour', 'neighbour', TENANT_SCOPES)}\n")
    sys.stdout.write(f"NEIGHBOUR_COLLEAGUE_TOKEN={token('neighbour', 'colleague', TENANT_SCOPES)}\n")
else:
    sys.stdout.write(token("development", "developer", SCOPES) + "\n")
