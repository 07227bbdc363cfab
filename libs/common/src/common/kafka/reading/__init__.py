"""Parts of the consumer loop: clients, stored offsets, polls, batches, stalls, broken logs."""
