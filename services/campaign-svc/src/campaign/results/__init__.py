"""Own a campaign's tallies, results and statistics."""
