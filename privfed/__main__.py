"""`python -m privfed`: the command line."""

from privfed.cli.main import main

main()
