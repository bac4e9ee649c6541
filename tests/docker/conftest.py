"""The folder of images, and its scripts, which are no package: a folder named docker on the path would hide another."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in ("docker", "docker/checks"):
    sys.path.append(str(ROOT / folder))
