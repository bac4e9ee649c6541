"""A small real server that speaks enough of OpenAI's protocol, counts what it is asked, and misbehaves on demand.

Words in the question decide: GARBAGE answers rubbish to the first two attempts (seeds 0 and 1), REFUSE always declines,
FLAKY fails once with 503, WRONG is a 400, HUNGRY a 400 about the context length.
"""

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


class ServedModel:
    """Runs in threads of this process on a free port of 127.0.0.1."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds
        self.questions = Counter()
        self.failed = Counter()
        self.open = self.most_open = 0
        self.requests = []
        self.is_gone = False
        self.keys = set()
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.is_gone = True
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    @property
    def num_answered(self):
        return sum(self.questions.values())

    def _handler(model):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                if model.is_gone:
                    self.close_connection = True
                    return
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with model.lock:
                    model.open += 1
                    model.most_open = max(model.most_open, model.open)
                    model.requests.append(request)
                    model.keys.add(self.headers["Authorization"])
                try:
                    time.sleep(model.seconds)
                    status, body = model.reply(request)
                finally:
                    with model.lock:
                        model.open -= 1
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_GET(self):
                content = json.dumps({"object": "list", "data": [{"id": "any", "object": "model"}]}).encode()
                self.send_response(200 if self.path == "/v1/models" else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        return Handler

    def reply(self, request):
        question = request["messages"][-1]["content"]
        text = question.partition("<<<\n")[2].partition("\n>>>")[0]
        with self.lock:
            if "WRONG" in text or "HUNGRY" in text:
                said = "maximum context length exceeded" if "HUNGRY" in text else "no such thing"
                return 400, {"error": {"message": said}}
            if "FLAKY" in text and not self.failed[text]:
                self.failed[text] += 1
                return 503, {"error": {"message": "busy"}}
            self.questions[text] += 1
        return 200, {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": request["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": answer_to(text, request["seed"])},
                }
            ],
            "usage": USAGE,
        }


def answer_to(text, seed=0):
    """What the server says of a text: its first line is explicit, a length is implied."""
    if "REFUSE" in text:
        return "I'm sorry, I cannot help with that."
    if "GARBAGE" in text and seed < 2:
        return "{{{"
    title = text.partition("\n")[0][:40]
    return json.dumps({"rationale": "because it says so", "explicit": [title], "implicit": [f"of {len(text)} letters"]})
