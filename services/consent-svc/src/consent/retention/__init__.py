"""The retention of consents, the renewal question before the end, and the retention of each table."""
