"""A run that is killed while it reads: what it had read is kept, and read by nobody again."""

import time

from model_children import kill, read_vectors_in
from vector_world import commit_inputs, long_texts, plan_in

from pipeline.kept_vectors import KEPT_VECTORS
from pipeline.runner import run
from pipeline.vector_store import VectorStore

NUM_ITEMS, SHARD_ROWS = 400, 8
SETTINGS = (f"item_vectors.shard_rows={SHARD_ROWS}", "item_vectors.dtype=float32", "item_vectors.engine=plain")


def test_what_a_killed_run_has_read_is_not_read_again(fork_child, tmp_path):
    plan = plan_in(tmp_path, *SETTINGS)
    commit_inputs(plan, long_texts(NUM_ITEMS), num_layers=8)
    output = plan.dataset("item_vectors")
    process = fork_child(read_vectors_in, tmp_path, SETTINGS)
    end = time.monotonic() + 120
    while len(output.shards()) < 5:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    kill(process)
    written, kept = len(output.shards()), num_kept(plan)
    assert written * SHARD_ROWS <= kept < NUM_ITEMS
    assert output.manifest is None

    run(plan, ["item_vectors"])
    assert num_kept(plan) == NUM_ITEMS
    details = plan.dataset("item_vectors").details
    assert details["texts"] == NUM_ITEMS
    assert details["texts_read"] == written * SHARD_ROWS + NUM_ITEMS - kept

    alone = plan_in(tmp_path, *SETTINGS, work="alone")
    commit_inputs(alone, long_texts(NUM_ITEMS), num_layers=8)
    run(alone, ["item_vectors"])
    # To the last bit: the rest is read in the same groups of texts as without the kill.
    made, undisturbed = (each.dataset("item_vectors").table() for each in (plan, alone))
    assert made.equals(undisturbed)


def num_kept(plan):
    (folder,) = (path for path in (plan.workspace.root / KEPT_VECTORS).glob("*/*") if path.is_dir())
    store = VectorStore(folder, dimension=0)
    try:
        return store.num_vectors()
    finally:
        store.close()
