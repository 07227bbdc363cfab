"""inbound-svc: operators' callbacks, verified, understood, and published before they are answered."""
