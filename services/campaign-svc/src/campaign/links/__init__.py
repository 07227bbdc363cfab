"""Tracked links and clicks."""
