"""Serves the active generation through Feast's own HTTP server, as soon as there is one.

A stack comes up before anything is published: the server then waits for the work folder's Feast repository instead of
failing, and is called unhealthy until it answers.
"""

import argparse
import os
import sys
import time
from pathlib import Path

POLL_SECONDS = 2.0


def main() -> None:
    """Waits, then becomes Feast's server, so that signals reach it."""
    arguments = _parser().parse_args()
    repository = Path(os.environ.get("MSD_WORK", "work")) / "feast"
    if not (repository / "feature_store.yaml").is_file():
        sys.stderr.write(f"nothing is published in {repository} yet; waiting for: msd publish\n")
        sys.stderr.flush()
    while not (repository / "feature_store.yaml").is_file():
        time.sleep(POLL_SECONDS)
    feast = str(Path(sys.executable).with_name("feast"))
    serving = ["serve", "--host", arguments.host, "--port", str(arguments.port), "--workers", str(arguments.workers)]
    os.execv(feast, [feast, "--chdir", str(repository), *serving, "--no-access-log"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=6566)
    parser.add_argument("--workers", type=int, default=1)
    return parser


if __name__ == "__main__":
    main()
