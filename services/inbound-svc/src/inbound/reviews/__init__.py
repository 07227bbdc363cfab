"""The review queue: a person reads what no rule is sure of, decides, and may undo before the decision takes effect."""
