"""The demo: two organisations and a hostile caller, judged by the operator's own log."""
