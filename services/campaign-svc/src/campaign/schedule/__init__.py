"""When a campaign sends: timing, recurrence, its status, and revisions of it."""
