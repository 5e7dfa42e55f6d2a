"""`python -m privfed`: the command line."""

from privfed.cli import main

main()
