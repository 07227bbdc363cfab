"""inbound-svc: what operators call back with. It decides whether a callback is genuine and what a text means; what that
changes is consent-svc's and dispatch-svc's."""
