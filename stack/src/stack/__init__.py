"""Run Placet on a bare machine: the local stack. No service imports this package."""
