"""Work of the models' stages in processes that a test may kill, started with torch and our models imported.

`fork_child(work, …)`, a fixture, starts one: a process that calls work(…), a function of this file.
"""

import json
import os
import pickle
import socket
import subprocess
import sys
from base64 import b64decode, b64encode
from pathlib import Path

PRELOADED = ("msd_models.student", "msd_models.teacher", "msd_models.train", "peft", "pipeline.runner")


def start(command, work, *arguments):
    """Starts work(*arguments) in a fork of the server behind the command."""
    pickled = b64encode(pickle.dumps((work.__name__, arguments))).decode()
    return subprocess.Popen([sys.executable, *command, "model_children", pickled], stdout=subprocess.PIPE)


def end(process):
    """Waits for its end, which must be a good one."""
    process.communicate()
    assert process.returncode == 0


def kill(process):
    """Ends it as a power cut does, and waits until the fork, which holds the same stdout, is gone too."""
    process.kill()
    process.communicate()


def launch_group(child, work, folder, processes, advance):
    """As torchrun starts `work(folder)` in processes of one group; a Launch but for the first two arguments."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = [child(member, work, str(folder), rank, processes, port) for rank in range(processes)]
    for process in group:
        end(process)


def member(work, folder, rank, processes, port):
    """One process of a group."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    work(folder)


def train_arms_in(root, folder, config):
    """Trains the arms on the world of a workspace."""
    from msd_models.train import train_arms
    from pipeline.stages import BY_NAME
    from pipeline.storage import Workspace

    workspace = Workspace(Path(root))
    names = BY_NAME["ctr_model"].inputs
    train_arms(config, folder, **{name: workspace.dataset(name, "0" * 16, BY_NAME[name].schema) for name in names})


def distil_in(folder, settings, inputs):
    """Distils a student and leaves its details in details.json."""
    import torch

    from msd_models.student import distill

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    details = distill(settings, folder, **inputs).details
    (folder / "details.json").write_text(json.dumps(details), encoding="utf-8")


def teach_in(root, config):
    """Makes the workspace's teacher_outputs from its prompts."""
    from pipeline import schemas
    from pipeline.job import Job
    from pipeline.rows import execute_rows
    from pipeline.source import load_source
    from pipeline.stages import BY_NAME
    from pipeline.storage import Workspace, commit

    workspace = Workspace(root)
    output = workspace.dataset("teacher_outputs", "1" * 16, schemas.TEACHER_OUTPUTS)
    output.folder.mkdir(parents=True, exist_ok=True)
    inputs = {"prompts": workspace.dataset("prompts", "0" * 16, schemas.PROMPTS)}
    source = load_source("tiny-world")
    job = Job(stage=BY_NAME["teacher_outputs"], config=config, source=source, inputs=inputs, output=output)
    commit(output, execute_rows(job), {})


def read_vectors_in(root, settings):
    """Runs item_vectors in a work folder of `vector_world`."""
    from vector_world import plan_in

    from pipeline.runner import run

    run(plan_in(root, *settings), ["item_vectors"])


if __name__ == "__main__":
    name, arguments = pickle.loads(b64decode(sys.argv[1]))
    globals()[name](*arguments)
