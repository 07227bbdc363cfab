"""campaign-svc: who is asked for, when, with what text."""
