"""What `msd explain` says of one item or user is what the datasets hold."""

import json
import subprocess
import sys

import numpy as np
import pytest

from pipeline.call import plan_of
from pipeline.errors import UsageError
from pipeline.explain import explain_item, explain_user
from pipeline.texts import text_id

pytestmark = [
    pytest.mark.spark,
    pytest.mark.redis,
    pytest.mark.feast,
    pytest.mark.slow,
    pytest.mark.xdist_group("shop"),
]


@pytest.fixture(scope="module")
def plan(shop):
    return plan_of(shop.work, str(shop.folder / "files" / "shop.toml"), str(shop.folder / "files" / "tiny.toml"), [])


def test_an_item_is_told_with_its_text_vector_and_nearest_neighbours(plan):
    facts = dict(explain_item(plan, "i5", write=True))
    features = plan.dataset("item_features").folder
    vectors_ND = np.load(features / "vectors.npy")
    ids = plan.dataset("item_vectors").table().column("item_id").to_pylist()
    own = ids.index("i5")
    cosine_N = vectors_ND @ vectors_ND[own] / np.linalg.norm(vectors_ND, axis=1) / np.linalg.norm(vectors_ND[own])
    nearest = [ids[row] for row in np.argsort(-cosine_N) if row != own][:5]
    assert [line.split()[1] for line in facts["nearest items"].splitlines()] == nearest
    assert facts["item"] == "i5: amber fjord 5 (unknown)"
    assert text_id(facts["text, as it is read"]) in facts["vector"]
    assert "of this very text" in facts["vector"]
    assert facts["student"].startswith("stated: ")
    assert f"item_vectors/{plan.dataset('item_vectors').fingerprint}: 1 row" in facts["held by"].splitlines()
    assert facts["online"].startswith("Redis is not running")


def test_a_user_is_told_with_history_teacher_and_what_holds_them(plan):
    facts = dict(explain_user(plan, 'O"Neil, Ann', write=False))
    assert facts["user"] == 'O"Neil, Ann (town: town of O"Neil, Ann)'
    assert "of this very text" in facts["vector"]
    assert facts["teacher"].startswith("stated: ") or "is not in the sample" in facts["teacher"]
    assert "--write" in facts["student"]
    counted = plan.dataset("interactions").table().column("user_id").to_pylist().count('O"Neil, Ann')
    assert f"interactions/{plan.dataset('interactions').fingerprint}: {counted} rows" in facts["held by"]
    assert f"publication/{plan.dataset('publication').fingerprint}: written to Redis" in facts["held by"]


def test_while_redis_runs_it_says_what_readers_get(shop, plan):
    command = [sys.executable, "-m", "pipeline", "redis", "--work", str(shop.work)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("redis://")
        facts = dict(explain_item(plan, "i5", write=False))
    finally:
        server.terminate()
        server.wait(60)
        server.stdout.close()
    assert plan.dataset("publication").fingerprint in facts["online"]
    assert "the same as offline" in facts["online"]


def test_what_is_not_there_says_what_to_do(shop, plan, tmp_path):
    with pytest.raises(UsageError, match=r"no user 'ann2' in shop; did you mean 'ann1"):
        list(explain_user(plan, "ann2", write=False))
    with pytest.raises(
        UsageError, match="nothing is known of item 'i5' yet: items is not made yet; run: msd run items"
    ):
        list(explain_item(plan_of(tmp_path, str(shop.folder / "files" / "shop.toml"), "tiny", []), "i5", write=False))
    erased = {"salt": "", "digests": ["2744ccd10c7533bd736ad890f9dd5cab2adb27b07d500b9493f29cdc420cb2e0"]}
    (tmp_path / "erased.json").write_text(json.dumps(erased))
    told = list(
        explain_user(plan_of(tmp_path, str(shop.folder / "files" / "shop.toml"), "tiny", []), "me", write=False)
    )
    assert [heading for heading, _ in told] == ["user"]
