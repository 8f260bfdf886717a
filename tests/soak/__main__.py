"""A soak, as long as it is asked for: `python -m tests.soak --minutes 60 --machines 8`. Needs root and iproute2.

Prints the counts. The exit code is 1 if a promise did not hold, and then each case is told on stderr.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from machines import Lab
from soak.trial import soak


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Random operations, kills and faults.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--machines", type=int, default=8)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--log", type=Path, help="Write every operation and its outcome into this file, as it ends.")
    chosen = parser.parse_args()
    why_not = Lab.why_not()
    if why_not:
        sys.exit(why_not)
    with tempfile.TemporaryDirectory(prefix="ttbert-soak-") as folder:
        log = chosen.log.open("w") if chosen.log else None
        result = soak(Path(folder), chosen.minutes, chosen.machines, chosen.seed, log)
    print(result.report())
    for failure in result.failures:
        print(failure, file=sys.stderr)
    sys.exit(1 if result.failures else 0)


main()
