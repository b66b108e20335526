"""`python -m headstart`."""

from headstart.cli.start import main

main()
