"""The groups of the command `placet`, a module for each."""
