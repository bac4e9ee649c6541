"""Python in forks of a process that has imported what takes long: the imports are paid once, not by each process.

`preloaded_python.py --serve SOCKET MODULE…` imports the modules, writes "ready" and serves until its stdin ends.
`preloaded_python.py SOCKET MODULE WORD…` is `python -m MODULE WORD…` in such a fork: it takes this process's stdin,
stdout, stderr and environment, this process ends with its exit code, and it does not outlive this process.

A load of vLLM takes 2.3 CPU seconds in place of 14: the import takes 8, and leaving the interpreter with all of it 2.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from contextlib import contextmanager, suppress

MESSAGE_BYTES = 1 << 18


def main():
    words = sys.argv[1:]
    if words[0] != "--serve":
        sys.exit(_run_in_fork(*words))
    job = _serve(*words[1:])
    code = 0 if job is None else _run(job)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def preloaded(folder, modules, variables):
    """Keeps a server up meanwhile; the value is the arguments to Python that come before a module and its words."""
    import subprocess

    command = [__file__, str(folder / "socket")]
    environment = {**os.environ, **variables}
    serving = [sys.executable, __file__, "--serve", command[1], *modules]
    with subprocess.Popen(serving, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield command


def _run_in_fork(path, *words):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(path)
        job = json.dumps({"words": words, "environment": dict(os.environ), "folder": os.getcwd()}).encode()
        socket.send_fds(connection, [job], [0, 1, 2])
        return json.loads(connection.recv(MESSAGE_BYTES))


def _serve(path, *modules):
    """The job, in the fork that is to do it; None in the server, when it is done serving."""
    for module in modules:
        importlib.import_module(module)
    # vLLM collects garbage several times while it loads a model: what the forks share need not be looked through.
    gc.freeze()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                return _fork_under_watch(connection)
            connection.close()
    # Waited for, so that their seconds count as those of whoever started this server.
    with suppress(ChildProcessError):
        while os.wait():
            pass
    return None


def _fork_under_watch(connection):
    """The job, in a fork; its parent reports the exit code, and kills it once nobody waits for that."""
    message, streams, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 3)
    worker = os.fork()
    if worker == 0:
        connection.close()
        return _take_over(json.loads(message), streams)
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(worker)
    has_ended = ended in select.select([connection, ended], [], [])[0]
    if not has_ended:
        os.kill(worker, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    if has_ended:
        connection.send(json.dumps(code).encode())
    os._exit(0)


def _take_over(job, streams):
    # A group of its own, as the process it stands for has: workers kill their whole group when their parent is gone.
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(job["folder"])
    os.environ.update(job["environment"])
    return job


def _run(job):
    module, *sys.argv[1:] = job["words"]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main()
