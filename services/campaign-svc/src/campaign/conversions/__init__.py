"""Take the conversions of people, so that a campaign's holdout has an outcome."""
