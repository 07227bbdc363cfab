"""The projection of consents, senders and campaigns: applied, kept fresh, reconciled, rebuilt."""
