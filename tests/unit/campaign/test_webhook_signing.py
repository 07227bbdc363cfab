"""Signatures as Standard Webhooks has them, and the rotation of secrets."""

from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from campaign.webhooks.signing import Secret, counting, headers, rotated, secret_of

# of the specification's own libraries (standard-webhooks/libraries, `test_sign`)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
AT = datetime.fromtimestamp(1614265330, UTC)
BODY = '{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

OLD, NEW, NEWER = (secret_of(bytes([n]) * 32) for n in range(3))


def test_a_signature_is_the_one_of_the_specification() -> None:
    assert headers(ID, AT, BODY, [Secret(SECRET)]) == {
        "webhook-id": ID,
        "webhook-timestamp": "1614265330",
        "webhook-signature": SIGNATURE,
    }


def test_a_former_secret_signs_along_until_it_ends() -> None:
    now = datetime.now(UTC)
    until = now + timedelta(hours=1)
    both = rotated([Secret(OLD)], NEW, now, until)
    signed = headers("evt-1", now, BODY, both)
    for secret in (OLD, NEW):
        Webhook(secret).verify(BODY, signed)
    with pytest.raises(WebhookVerificationError):
        Webhook(NEWER).verify(BODY, signed)
    assert counting(both, until) == [Secret(NEW)]


def test_a_rotation_never_prolongs_a_former_secret() -> None:
    now = datetime.now(UTC)
    soon, late = now + timedelta(hours=1), now + timedelta(days=1)
    twice = rotated(rotated([Secret(OLD)], NEW, now, soon), NEWER, now, late)
    assert twice == [Secret(NEWER), Secret(NEW, late), Secret(OLD, soon)]
    assert rotated([Secret(OLD)], NEW, now, now)[1:] == [Secret(OLD, now)]
    assert counting(rotated([Secret(OLD)], NEW, now, now), now) == [Secret(NEW)]
