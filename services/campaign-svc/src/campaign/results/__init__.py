"""Own a campaign's results and statistics."""
