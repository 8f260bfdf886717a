"""`python -m ttbert` is `ttbert`."""

from .cli import main

main()
