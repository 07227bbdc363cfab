"""Handle phone numbers, message ids, the length of a text in SMS, and the reach of a STOP."""
