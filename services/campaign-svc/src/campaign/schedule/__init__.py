"""Own a campaign's timing, recurrence, status and revisions."""
