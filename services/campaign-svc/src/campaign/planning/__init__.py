"""From schedule to requests: start, pause and end campaigns; report waits and progress."""
