"""Draw the newest run under a folder again, as a user would: `python redraw_newest.py results`."""

import subprocess
import sys
from pathlib import Path

runs = sorted(Path(sys.argv[1]).glob("*/run.json"))
if not runs:
    sys.exit(f"no run under {sys.argv[1]}")
sys.exit(subprocess.call([sys.executable, "-m", "reports", str(runs[-1].parent)]))
