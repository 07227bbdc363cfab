"""What dispatch knows of consents, senders and campaigns: applied, kept fresh, compared, rebuilt."""
