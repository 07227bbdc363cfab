"""Personal data in dispatch-svc: copies, erasure and retention."""
