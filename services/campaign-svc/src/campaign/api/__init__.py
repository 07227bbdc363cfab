"""Serve campaigns over HTTP: write, edit, schedule, pause, resume, cancel, show."""
