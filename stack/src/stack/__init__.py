"""The local stack: everything a bare machine needs to run Placet. No service imports it."""
