"""dispatch-svc: decides whether a message may go now, and hands the message to a gateway."""
