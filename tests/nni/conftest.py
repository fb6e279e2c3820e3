"""The folder of the tasks is on the path, here and in the processes that NNI starts."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
