"""The way of a message from its request to its outcome: pipeline, timers, outcomes, receipts."""
