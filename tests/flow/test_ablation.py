"""msd ablate as a user runs it: on the tiny world, where the user's level and fusion are all there is to know."""

import json

import pytest

pytestmark = [
    pytest.mark.spark,
    pytest.mark.redis,
    pytest.mark.feast,
    pytest.mark.slow,
    pytest.mark.xdist_group("flow"),
]
SMALL = ("--tables", "3", "--seeds", "1", "--set", "ctr_model.max_epochs=1")


def test_parts_of_msd_are_weighed_in_one_command(planted, msd):
    examples = {path.name for path in (planted.work / "examples").iterdir() if path.is_dir()}
    ended = msd("ablate", *SMALL, work=planted.work)
    assert ended.returncode == 0, ended.stderr
    facts = json.loads((planted.work / "ablation" / "ablation.json").read_text())
    assert facts["audit"].startswith("Leak audit: 0 of")
    rows = {row["arm"]: row for row in facts["tables"]["3"]}
    assert {"msd", "msd_frozen", "msd_no_fusion", "msd_no_user", "msd_mask_none", "msd_k_20"} <= rows.keys()
    assert {path.name for path in (planted.work / "examples").iterdir() if path.is_dir()} == examples
    for name in ("ablation.md", "ablation.txt"):
        assert f"{rows['msd']['auc']:.4f}" in (planted.work / "ablation" / name).read_text()
    assert (planted.work / "ablation" / "ablation.png").stat().st_size > 10_000
    assert "without user level" in ended.stdout

    again = msd("ablate", *SMALL, work=planted.work)
    assert again.stdout == ended.stdout
    assert "[1/" not in again.stderr, "nothing is made twice"
