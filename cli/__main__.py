"""`python -m modelkin.cli`."""

from modelkin.cli.main import main

main()
