"""The program: `ttbert`, or `python -m ttbert`."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Import the command line, then run it."""
    # What is imported stays. To look through it for cycles, meanwhile and as the process ends, would take 15 ms.
    gc.disable()
    try:
        from .cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    gc.freeze()
    gc.enable()
    run()


if __name__ == "__main__":
    main()
