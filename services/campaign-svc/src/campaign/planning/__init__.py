"""From a schedule to requests: campaigns start, are paused and end; what each waits for; progress."""
