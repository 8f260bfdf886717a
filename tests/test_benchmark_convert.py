"""The benchmark of conversion runs, on small inputs, and compares what it says. Nothing here depends on how long it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_convert_compares_whole_processes_and_who_packs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "convert", "--small", "--json", "--folder", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)
    names = [[row["name"] for row in table["rows"]] for table in report["tables"]]
    assert names[0] == ["ttbert convert", "from_pretrained, as_tensor"]
    assert names[1][0] == "ttbert convert, a hit, weights met before" and names[1][-1] == names[0][-1]
    assert names[2][-2:] == ["packing by numpy", "packing by ttnn"]
    assert report["tables"][0]["limit"]["seconds"] > 0
    assert all(row["seconds"] > 0 for table in report["tables"] for row in table["rows"])
