"""`python -m tritone_cli`."""

from tritone_cli.main import main

main()
