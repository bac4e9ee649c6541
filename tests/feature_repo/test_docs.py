"""The code that docs/feature_store.md shows runs as it stands there."""

import re
from pathlib import Path
from typing import Any

import pytest

from feature_repo.redis_server import running_redis
from feature_repo.store import quiet_feast, require_feast, write_settings

PAGE = Path(__file__).parents[2] / "docs" / "feature_store.md"

pytestmark = [pytest.mark.redis, pytest.mark.feast]


def test_every_snippet_runs(published: Any, monkeypatch: pytest.MonkeyPatch):
    world, _, _ = published
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(snippets) == 4
    monkeypatch.chdir(world.workspace.root.parent)
    require_feast()
    names: dict[str, Any] = {}
    with running_redis(world.workspace.root) as redis, quiet_feast():
        write_settings(world.home, redis)
        for snippet in snippets:
            exec(compile(snippet.replace('"50"', '"i003"').replace('"13"', '"u001"'), PAGE.name, "exec"), names)
    table = world.item_vectors.table().column("vector")
    assert names["vector"] == table[3].as_py()
    assert names["items"].tolist() == [table[3].as_py(), [0.0] * 6, [0.0] * 6]
    assert (names["has_user"].tolist(), names["has_item"].tolist()) == ([True], [True, False, False])
    assert names["rows"]["item_vectors__vector_row"].isna().all(), "1997 is before every vector of the test world"
    assert names["vectors"].tolist() == table.to_pylist()
