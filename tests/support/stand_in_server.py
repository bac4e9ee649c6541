"""A small real server in place of vLLM's: lists one model to whoever has the key, and has a child as an engine is one.

`stand_in_server.py MODEL [--fail | --mute | --slow] --host HOST --port PORT`
"""

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/v1/models" and self.headers["Authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}":
            self.send_error(401)
            return
        models = json.dumps({"data": [{"id": sys.argv[1]}]})
        content = (models if self.path == "/v1/models" else "vllm:num_requests_running 0\n").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def main():
    if "--fail" in sys.argv:
        raise ValueError("no such weights")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(f"/proc/{os.getppid()}/fd/1").resolve().with_name("child").write_text(str(child.pid))
    if "--slow" in sys.argv:
        time.sleep(2.0)
    if "--mute" in sys.argv:
        time.sleep(600)
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()


main()
