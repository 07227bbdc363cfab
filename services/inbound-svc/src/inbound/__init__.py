"""inbound-svc: the callbacks of operators. Decides whether a callback is genuine, and what a text means.

The consequences belong to consent-svc and dispatch-svc.
"""
