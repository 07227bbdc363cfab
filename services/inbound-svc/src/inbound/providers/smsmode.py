"""smsmode: not supported; its callbacks are refused.

No public page describes the bodies of `callbackUrlMo` and `callbackUrlStatus` (DOMAIN 3.1; the fixtures are marked
undocumented), and a misread STOP is worse than a loud refusal.

To support smsmode: send one message each way with the sandbox of dev.smsmode.com, keep both bodies in tests/operators,
and write this module from the bodies. No signature is documented: use a secret path.
"""

GAP = (
    "smsmode publishes no body of callbackUrlMo or callbackUrlStatus:"
    " capture both with the sandbox of dev.smsmode.com first"
)
