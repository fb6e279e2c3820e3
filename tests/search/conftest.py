"""Worker processes import the toys by name, so their folder is on the path that they inherit."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
