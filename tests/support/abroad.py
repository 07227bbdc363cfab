"""An edition that opens a place abroad: no edition in force names a means for one, so a test makes its own."""

from dataclasses import replace

from common.law import Policy


def with_link_in(policy: Policy, *places: str) -> Policy:
    """Return the policy with stop links among the means of these places."""
    opened = {code: replace(policy.places[code], link_works=True) for code in places}
    return replace(policy, places=policy.places | opened)
