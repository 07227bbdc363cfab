"""The command line of Placet: `placet --help`."""
