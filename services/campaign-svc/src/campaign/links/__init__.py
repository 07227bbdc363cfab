"""Tracked links: made, followed, and the opt-outs that answer a message."""
