"""Tracked links, clicks, and opt-outs in answer to a message."""
