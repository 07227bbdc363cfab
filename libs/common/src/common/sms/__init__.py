"""Phone numbers, message ids, the length of a text in SMS, and the senders that a STOP is for."""
