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
    try:
        run()
    finally:
        # Nor is anything gained by looking at the end, which takes 50 ms after a conversion. But what is not taken apart then,
        # TT-NN's bindings report as leaked.
        if "ttnn._ttnn" not in sys.modules:
            gc.freeze()


if __name__ == "__main__":
    main()
