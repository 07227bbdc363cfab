"""Own the campaigns themselves and their recipients."""
