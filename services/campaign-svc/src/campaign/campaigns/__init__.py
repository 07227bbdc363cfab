"""Own campaigns, recipients, tallies and counts by reason: the tables and the statements writing them."""
