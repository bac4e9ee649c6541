"""The records of the CTR models hold what the datasets say, example by example."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from msd_models.ctr_inputs import NUM_GAPS, SPLITS
from msd_models.ctr_records import open_inputs
from pipeline.config import CtrRecords
from pipeline.errors import ConfigError, StageError
from pipeline.storage import write_shard

CONFIG = CtrRecords(max_history=5)


@pytest.fixture
def open_world(make_ctr_world, write_ctr_records, tmp_path):
    """Makes a world and its records; returns the world, the inputs and all records by event."""

    def _open(config=CONFIG, text_context=(), folder="world", **changes):
        world = make_ctr_world(tmp_path / folder, **changes)
        inputs = open_inputs(write_ctr_records(world, config, text_context).folder)
        whole = np.concatenate([inputs.records[split].read(0, inputs.num_rows(split)) for split in SPLITS])
        return world, inputs, whole[np.argsort(whole["event_id"])]

    return _open


def test_every_example_is_in_the_file_of_its_split_once(open_world):
    world, inputs, records = open_world()
    examples = world["examples"].table()
    assert records["event_id"].tolist() == sorted(examples.column("event_id").to_pylist())
    assert records["click"].tolist() == examples.sort_by("event_id").column("is_click").to_pylist()
    for split in SPLITS:
        wanted = {row["event_id"] for row in examples.to_pylist() if row["split"] == split}
        assert set(inputs.records[split].read(0, 10**6)["event_id"].tolist()) == wanted


def test_histories_are_the_last_events_of_the_row_the_example_names(open_world):
    random = np.random.default_rng(1)
    named = [None if random.random() < 0.2 else int(random.integers(60)) for _ in range(600)]
    world, inputs, records = open_world(history_row=named)
    batch = inputs.batch(records)
    histories = world["histories"].table().to_pylist()
    items = world["items"].table().column("item_id").to_pylist()
    for row, name in enumerate(named):
        given = [] if name is None else histories[name]["item_ids"][-5:]
        assert [items[entry - 1] for entry in batch.history_BL[row].tolist() if entry] == given
        assert batch.history_BL[row].tolist()[: 5 - len(given)] == [0] * (5 - len(given))
        assert batch.is_liked_BL[row].sum() == len(given)
        # In this world the r-th item has vector row r, and all were known from the beginning.
        assert batch.history_rows_BL[row].tolist() == batch.history_BL[row].tolist()


def test_a_gap_counts_hours_between_event_and_example_and_grows_with_them(open_world):
    world, inputs, records = open_world()
    batch = inputs.batch(records)
    at = world["examples"].table().sort_by("event_id").column("event_at").cast("int64").to_numpy() // 1_000_000
    hours = at // 60 // 60
    is_event = (batch.history_BL > 0).numpy()
    wanted = np.minimum(1 + np.log2(1 + hours).astype(int), NUM_GAPS - 1)
    assert (batch.gap_BL.numpy() == np.where(is_event, wanted[:, None], 0)).all()


def test_a_text_unknown_at_the_cut_has_no_vector_in_a_history(open_world, make_ctr_world, write_ctr_records, tmp_path):
    world = make_ctr_world(tmp_path / "late")
    stats = world["item_stats"].table()
    late = pa.array([200_000_000 if n % 2 else 0 for n in range(len(stats))]).cast(
        stats.schema.field("first_seen_at").type
    )
    place = stats.schema.get_field_index("first_seen_at")
    write_shard(world["item_stats"].shards()[0], stats.set_column(place, stats.schema.field(place), late))
    inputs = open_inputs(write_ctr_records(world, CONFIG).folder)
    batch = inputs.batch(inputs.records["train"].read(0, 1000))
    is_late = (batch.history_BL - 1) % 2 == 1
    assert (batch.history_rows_BL[is_late & (batch.history_BL > 0)] == 0).all()
    assert (batch.history_rows_BL[~is_late] == batch.history_BL[~is_late]).all()


def test_missing_vectors_and_rows_are_zero_and_the_rest_is_shifted_by_one(open_world):
    rows = [None if number % 7 == 0 else number % 60 for number in range(600)]
    _, inputs, records = open_world(user_row=rows)
    assert inputs.batch(records).user_row_B.tolist() == [0 if row is None else row + 1 for row in rows]


def test_texts_of_events_name_rows_of_context_texts(open_world):
    queries = [["", "red shoes", "blaue Schuhe", "红鞋"][number % 4] for number in range(600)]
    world, inputs, records = open_world(text_context=("query", "page"), queries=queries)
    texts = world["context_texts"].table().column("text").to_pylist()
    rows = inputs.batch(records).context_rows_BQ
    assert inputs.context_names == ("query", "page")
    assert rows[:, 0].tolist() == [texts.index(query) + 1 if query else 0 for query in queries]
    assert rows[:, 1].tolist() == [0] * 600
    assert inputs.sampled_rows["contexts"].tolist() == [1, 2, 3]


def test_no_code_belongs_to_two_fields_and_all_lie_in_the_table(open_world):
    _, inputs, records = open_world()
    for position, field in enumerate(inputs.fields):
        codes = records["codes"][:, position]
        assert field.offset <= codes.min()
        assert codes.max() < field.offset + field.size
    names = [field.name for field in inputs.fields]
    assert names == ["user_id", "item_id", "category", "item.brand", "item.price", "user.age", "context.device"]
    assert inputs.num_codes == inputs.fields[-1].offset + inputs.fields[-1].size


def test_the_target_and_the_history_name_an_item_by_the_same_rows(open_world):
    _, inputs, records = open_world()
    assert (inputs.catalogue_codes_C2[records["item"]].numpy() == records["codes"][:, 1:3]).all()


def test_training_alone_decides_the_codes(open_world):
    random = np.random.default_rng(0)
    users = random.integers(60, size=600)
    other = users.copy()
    other[400:] = random.integers(60, size=200)
    _, one, of_one = open_world(folder="one", user=users)
    _, two, of_two = open_world(folder="two", user=other)
    assert one.num_codes == two.num_codes
    assert (of_one["codes"][:360] == of_two["codes"][:360]).all()


def test_numbers_are_normalised_over_the_training_rows(open_world):
    world, inputs, records = open_world(replace(CONFIG, numbers="normalised"))
    assert inputs.number_names == ("item.price", "user.age")
    assert "item.price" not in [field.name for field in inputs.fields]
    train = inputs.batch(inputs.records["train"].read(0, 1000)).numbers_BM[:, 0].numpy()
    assert abs(train.mean()) < 1e-5
    assert abs(train.std() - 1) < 1e-5
    prices = np.array([float(dict(row["attributes"])["price"]) for row in world["items"].table().to_pylist()])
    assert np.corrcoef(records["numbers"][:, 0], prices[records["item"] - 1])[0, 1] > 0.999999
    _, both, _ = open_world(replace(CONFIG, numbers="both"), folder="both")
    assert "item.price" in [field.name for field in both.fields]
    assert both.number_names == inputs.number_names


def test_a_field_with_too_many_values_is_hashed_into_the_rows_it_is_given(open_world):
    _, inputs, records = open_world(replace(CONFIG, hashed_rows=16))
    sizes = {field.name: field.size for field in inputs.fields}
    assert sizes["user_id"] == sizes["item_id"] == 17
    assert sizes["category"] == 4
    by_user = {}
    for user, code in zip(records["user"].tolist(), records["codes"][:, 0].tolist(), strict=True):
        assert by_user.setdefault(user, code) == code
    assert len(set(by_user.values())) > 8


def test_the_order_of_the_examples_changes_nothing_but_the_order(
    open_world, make_ctr_world, write_ctr_records, tmp_path
):
    world, _, records = open_world()
    mixed = make_ctr_world(tmp_path / "mixed")
    shuffled = mixed["examples"].table().take(pa.array(np.random.default_rng(0).permutation(600)))
    write_shard(mixed["examples"].shards()[0], shuffled)
    dataset = write_ctr_records(mixed, CONFIG)
    inputs = open_inputs(dataset.folder)
    whole = np.concatenate([inputs.records[split].read(0, 1000) for split in SPLITS])
    assert (whole[np.argsort(whole["event_id"])] == records).all()
    first = world["examples"].folder.parents[1] / "ctr_records" / f"{0:016d}"
    assert dataset.details["split_digest"] in (first / "manifest.json").read_text()


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_split_with_one_class_or_without_rows_is_named(open_world, split):
    splits = np.array(["train", "valid", "test"])[np.arange(600) % 3]
    clicks = (np.arange(600) % 2 == 0) | (splits == split)
    with pytest.raises(StageError, match=rf"the {split} split has 200 clicks among its 200 rows.*msd run"):
        open_world(folder="one_class", split=splits, click=clicks)
    splits[splits == split] = "test" if split != "test" else "train"
    with pytest.raises(StageError, match=f"the {split} split has 0 clicks among its 0 rows"):
        open_world(folder="empty", split=splits)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"max_history": 0}, "max_history is 0"),
        ({"hashed_rows": -1}, "hashed_rows is -1"),
        ({"numbers": "raw"}, "numbers is 'raw'; choose buckets, normalised, both"),
    ],
)
def test_a_setting_out_of_range_is_a_sentence(open_world, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        open_world(replace(CONFIG, **changes))
