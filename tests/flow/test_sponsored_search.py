"""Sponsored search: a query's vector meets the ad's, and that is where the clicks are decided."""

import json

import pyarrow.parquet as pq
import pytest
import search_world

pytestmark = [pytest.mark.spark, pytest.mark.feast, pytest.mark.slow]
ARMS = ("din", "shuffled_vectors", "no_context", "msd_frozen")
SETTINGS = (
    "teacher_outputs.script={folder}/teacher.jsonl",
    "ctr_model.arms_file={folder}/arms.toml",
    f"ctr_model.arms={json.dumps(ARMS)}",
    "ctr_model.seeds=[1]",
    # How the world is read is its own matter and not the preset's. Few passes: with a dozen, models without queries
    # learn single ads and users by heart.
    "histories.embed_min_events=3",
    "prompts.history_titles=8",
    "user_vectors.history_titles=8",
    "user_text_vectors.history_titles=8",
    "student.epochs=12",
    'student.curve=["nll"]',
    "ctr_model.max_epochs=4",
    "ctr_model.patience=1",
    "prompts.item_rows=240",
    "prompts.user_rows=30",
    "prompts.near_duplicate=2.0",
    "publication.online=false",
    "tuned_student.max_steps=0",
)


@pytest.fixture(scope="module")
def searched(tmp_path_factory, msd):
    """Folder of the world with its models trained, and the best AUC there can be."""
    folder = tmp_path_factory.mktemp("search")
    ceiling = search_world.write(folder)
    arguments = ["run", "ctr_model", "audit", "--source", str(folder / "source.toml"), "--preset", "tiny-world"]
    for setting in SETTINGS:
        arguments += ["--set", setting.format(folder=folder)]
    ended = msd(*arguments, work=folder / "work")
    assert ended.returncode == 0, ended.stderr
    return folder, ceiling


def committed(folder, name):
    (path,) = (folder / "work" / name).glob("*/manifest.json")
    return path.parent


def table_of(folder, name):
    return pq.read_table(sorted(committed(folder, name).glob("part-*.parquet")))


def test_queries_that_meet_ads_close_most_of_the_gap(searched):
    from sklearn.metrics import roc_auc_score

    folder, ceiling = searched
    auc = {}
    for arm in ARMS:
        table = pq.read_table(committed(folder, "ctr_model") / "predictions" / f"{arm}-1.parquet").to_pandas()
        test = table[table.split == "test"]
        auc[arm] = roc_auc_score(test.is_click, test.score)
    gap = ceiling - auc["no_context"]
    assert gap > 0.2, auc
    assert auc["msd_frozen"] - auc["no_context"] > 0.5 * gap, auc
    assert abs(auc["shuffled_vectors"] - auc["no_context"]) < 0.3 * gap, auc


def test_every_query_is_read_once_and_none_leaks(searched):
    folder, _ = searched
    texts = table_of(folder, "context_texts")
    queries = {line.split(",")[4] for line in (folder / "log.csv").read_text().splitlines()[1:]}
    assert set(texts.column("text").to_pylist()) == queries
    vectors = table_of(folder, "context_vectors")
    assert vectors.column("text_id").to_pylist() == texts.column("text_id").to_pylist()
    items = table_of(folder, "item_vectors")
    assert set(vectors.column("space_id").to_pylist()) == set(items.column("space_id").to_pylist())
    manifest = json.loads((committed(folder, "audit") / "manifest.json").read_text())
    assert manifest["details"] == {"leaks": {}, "examined": search_world.EVENTS}
