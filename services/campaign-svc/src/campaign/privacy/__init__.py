"""What campaign-svc erases, tells, corrects and no longer keeps of a person."""
