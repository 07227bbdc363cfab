"""Plan campaigns: choose the recipients, the time and the text of each message."""
