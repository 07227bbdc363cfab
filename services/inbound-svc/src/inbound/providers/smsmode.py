"""smsmode: no callback is taken. What it posts to `callbackUrlMo` and `callbackUrlStatus` is published nowhere that
could be read (DOMAIN 3.1; its fixtures are marked undocumented), and a STOP misread is worse than one refused loudly.

To support it: send one message each way with the sandbox of dev.smsmode.com, keep both bodies in tests/operators, and
write this module from them. It will have no signature to check (none is documented): a secret path.
"""

GAP = (
    "smsmode publishes no body of callbackUrlMo or callbackUrlStatus:"
    " capture both with the sandbox of dev.smsmode.com first"
)
