"""dispatch-svc: whether this message may go now, and its hand-off to a gateway."""
