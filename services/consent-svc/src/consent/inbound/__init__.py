"""The subscriptions to MOs, to dispatch's messages (opted-out DLRs), and to clicks."""
