"""smsmode: not supported; its callbacks are refused.

No public page describes the bodies (DOMAIN 3.1), and a misread STOP is worse than a loud refusal.

To support smsmode: capture both bodies with the sandbox of dev.smsmode.com.
"""

GAP = (
    "smsmode publishes no body of callbackUrlMo or callbackUrlStatus:"
    " capture both with the sandbox of dev.smsmode.com first"
)
