"""A worker process that speaks vllm_worker's protocol without a model: it dies of requests that hold its poison.

Arguments: the poisonous token id, and `once` where the first process alone dies of it.
"""

import json
import os
import signal
import sys
from pathlib import Path

POISON = int(sys.argv[1])
MARKER = Path(sys.argv[2])
DIES_ONCE = sys.argv[3] == "once"

settings = json.loads(sys.stdin.readline())
sys.stdout.write(json.dumps({"ready": True}) + "\n")
sys.stdout.flush()
for line in sys.stdin:
    request = json.loads(line)
    if POISON in request["ids"] and not (DIES_ONCE and MARKER.exists()):
        with MARKER.open("a") as deaths:
            deaths.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    answer = {"rationale": "because", "explicit": ["thing"], "implicit": [f"{settings['max_num_seqs']} at once"]}
    reply = {
        "id": request["id"],
        "text": json.dumps(answer),
        "prompt_tokens": len(request["ids"]),
        "output_tokens": 3,
        "is_complete": True,
    }
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()
