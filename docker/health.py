"""Exit code 0 where a server answers, as the containers' health checks ask; stdlib only, and no site-packages.

`$MSD_HEALTH` is the address, and behind it the parts that Airflow's own answer must call healthy:
`http://127.0.0.1:8080/api/v2/monitor/health scheduler`.
"""

import json
import os
import sys
import urllib.error
import urllib.request

TIMEOUT_SECONDS = 8.0
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""A proxy in the environment has nothing to say between containers."""


def complaint(wanted: str) -> str:
    """What is wrong; empty where all is well.

    Args:
        wanted: the address, and the parts of its JSON answer whose `status` has to be `healthy`.
    """
    address, *parts = wanted.split()
    try:
        with LOCAL.open(address, timeout=TIMEOUT_SECONDS) as answer:
            body = answer.read()
    except (urllib.error.URLError, OSError) as error:
        return f"{address}: {error}"
    states = json.loads(body) if parts else {}
    ill = [f"{part} is {states.get(part, {}).get('status')}" for part in parts if not _is_healthy(states, part)]
    return "; ".join(ill)


def _is_healthy(states: dict[str, dict[str, str]], part: str) -> bool:
    return states.get(part, {}).get("status") == "healthy"


if __name__ == "__main__":
    sys.exit(complaint(os.environ["MSD_HEALTH"]) or 0)
