"""`python -m placet_cli` is `placet`."""

from placet_cli.main import main

main()
