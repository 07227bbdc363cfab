"""Play at a Placet as an operator does: callbacks and records, in each way that networks and mistakes change them."""
