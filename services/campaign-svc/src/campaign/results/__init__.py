"""What came of a campaign: accounts, results, statistics."""
