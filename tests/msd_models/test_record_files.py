"""Files of records: every record once an epoch, in an order that the seed decides and the pool does not starve."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_models.record_files import BLOCK_ROWS, RecordWriter, open_records, record_type

DTYPE = record_type(num_fields=3, num_numbers=0, num_history=2, num_contexts=1)


def written(folder, count, pieces=1):
    records = np.zeros(count, dtype=DTYPE)
    records["event_id"] = np.arange(count)
    records["codes"] = np.arange(count)[:, None] + [0, 1, 2]
    writer = RecordWriter(folder / f"{count}.npy", DTYPE)
    for piece in np.array_split(records, pieces):
        writer.write(piece)
    writer.close()
    return open_records(writer.path), records


@given(count=st.integers(0, 300), pieces=st.integers(1, 7), rows=st.integers(1, 80))
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read_and_numpy_reads_it_too(tmp_path_factory, count, pieces, rows):
    file, records = written(tmp_path_factory.mktemp("records"), count, pieces)
    assert len(file) == count
    assert (np.load(file.path, allow_pickle=False) == records).all()
    parts = list(file.batches(rows))
    assert sum(len(part) for part in parts) == count
    assert not parts or (np.concatenate(parts) == records).all()


@pytest.mark.parametrize("pool_rows", [1, BLOCK_ROWS, 2 * BLOCK_ROWS, 10**6])
def test_an_epoch_holds_every_record_once_whatever_the_pool(tmp_path, pool_rows):
    count = 3 * BLOCK_ROWS + 123
    file, _ = written(tmp_path, count)
    batches = list(file.shuffled(1000, pool_rows, np.random.default_rng(0)))
    assert [len(batch) for batch in batches] == [1000] * (count // 1000) + [count % 1000]
    ids = np.concatenate([batch["event_id"] for batch in batches])
    assert (np.sort(ids) == np.arange(count)).all()
    assert np.corrcoef(ids[:-1], ids[1:])[0, 1] < 0.9


def test_the_order_depends_on_the_generator_alone(tmp_path):
    file, _ = written(tmp_path, 500)

    def order(seed):
        return np.concatenate([b["event_id"] for b in file.shuffled(32, 10**6, np.random.default_rng(seed))]).tolist()

    assert order(1) == order(1) != order(2)
