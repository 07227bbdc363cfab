"""Run the command: `python -m placet_operator`."""

from placet_operator.main import main

main()
