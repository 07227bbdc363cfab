"""The gate: the rules for whether a message may go now, the decision record, and the one door to both."""
