"""What a piece of evidence changes: the rules, the hash chain, and the one door through which consent changes."""
