"""Sending a message, from request to outcome: pipeline, timers, outcomes, delivery receipts."""
