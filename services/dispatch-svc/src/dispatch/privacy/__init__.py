"""What dispatch-svc erases, tells and no longer keeps of a person."""
