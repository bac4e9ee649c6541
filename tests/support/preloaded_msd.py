"""The command from a process that has its libraries imported already: every call is a fork of that one.

torch, transformers and Feast cost each call of `msd` up to ten seconds of processor time before it does anything. A
call made here is a process of its own all the same, with its own environment, folder, streams, session and exit code,
and it ends with its caller. The caller is this file, run as a script: it imports next to nothing, and MSD_COMMAND can
name it.
"""

import atexit
import json
import os
import select
import signal
import socket
import sys
import threading
from contextlib import contextmanager, suppress

PRELOADED = (
    "duckdb",
    "feast",
    "feast.infra.online_stores.redis",
    "feature_repo.features",
    "feature_repo.publication",
    "matplotlib.pyplot",
    "msd_models.embed",
    "msd_models.report",
    "msd_models.student",
    "msd_models.train",
    "msd_models.tuned_student",
    "pandas",
    "peft",
    "pipeline.cli",
    "pyspark.sql",
    "sklearn.metrics",
    "transformers.models.bert.modeling_bert",
    "transformers.models.llama.modeling_llama",
)
NUMBER_BYTES = 8


@contextmanager
def serving(folder):
    """Keeps the process with the libraries meanwhile; the value is the words that call the command through it."""
    import subprocess

    address, log_path = folder / "msd.socket", folder / "preloaded.log"
    with (
        log_path.open("w") as log,
        subprocess.Popen(
            [sys.executable, __file__, "--serve", str(address)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        ) as server,
    ):
        assert server.stdout is not None
        assert server.stdout.readline(), log_path.read_text()
        yield [sys.executable, "-I", "-S", __file__, str(address)]


def call(address, words):
    """Has the command run with these words, our environment, folder and streams; returns its exit code."""
    asked = json.dumps({"words": words, "environment": dict(os.environ), "folder": os.getcwd()}).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [len(asked).to_bytes(NUMBER_BYTES, "big")], [0, 1, 2])
        connection.sendall(asked)
        pid = int.from_bytes(_read(connection, NUMBER_BYTES), "big")
        signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
        exit_code = _read(connection, 1)
        # Closed when the process is gone, with whatever it does at its end.
        _read(connection, 1)
    if not exit_code:
        # Killed: whoever waits for the caller is to see that.
        os.kill(os.getpid(), signal.SIGKILL)
    return exit_code[0]


def serve(address):
    """Forks for each call, until stdin is closed; returns the connection and the call in the fork alone."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                return connection
            connection.close()
            with suppress(ChildProcessError):
                # Waited for, so that their processor time counts as their starter's.
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    return None


def run(connection):
    """Runs the command in a fork, as its caller would have; returns its exit code."""
    from pipeline import cli

    os.setsid()
    head, streams, _, _ = socket.recv_fds(connection, NUMBER_BYTES, 3)
    asked = json.loads(_read(connection, int.from_bytes(head, "big")))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.argv = ["msd", *asked["words"]]
    connection.sendall(os.getpid().to_bytes(NUMBER_BYTES, "big"))
    threading.Thread(target=_end_with_caller, args=(connection,), daemon=True).start()
    try:
        cli.main(asked["words"])
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _end_with_caller(connection):
    connection.recv(1)
    # With what it has started: Spark's machine, workers.
    os.killpg(0, signal.SIGKILL)


def _read(connection, wanted):
    """So many bytes, or none where the other end is gone."""
    content = b""
    while len(content) < wanted:
        part = connection.recv(wanted - len(content))
        if not part:
            return b""
        content += part
    return content


def _main(words):
    if words[0] != "--serve":
        return call(words[0], words[1:])
    import importlib

    from pipeline.call import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    for name in PRELOADED:
        importlib.import_module(name)
    connection = serve(words[1])
    if connection is None:
        return 0
    exit_code = run(connection)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(bytes([exit_code]))
    # As multiprocessing ends a fork: libraries' threads did not come along, and cannot be joined.
    os._exit(exit_code)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
