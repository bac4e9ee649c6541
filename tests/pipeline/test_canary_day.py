from pathlib import Path

from pipeline.canary_cli import day_meant
from pipeline.partitions import FOLDER
from pipeline.storage import Workspace


def folder(work: Path, *days: str) -> Path:
    (work / FOLDER).mkdir(parents=True)
    for day in days:
        (work / FOLDER / f"{day}.json").write_text("{}")
    return work


def test_a_folder_that_knows_only_days_means_the_latest(tmp_path: Path) -> None:
    assert day_meant(folder(tmp_path / "w", "2026-01-02", "2026-01-10", "2025-12-31"), None, None) == "2026-01-10"


def test_what_the_call_or_the_last_run_says_wins(tmp_path: Path) -> None:
    work = folder(tmp_path / "w", "2026-01-02")
    assert day_meant(work, None, "2026-01-01") == "2026-01-01"
    assert day_meant(work, "mine.toml", None) is None
    Workspace(work).remember({"source": "mine.toml"})
    assert day_meant(work, None, None) is None


def test_a_folder_without_days_or_none_at_all_means_no_day(tmp_path: Path) -> None:
    assert day_meant(tmp_path, None, None) is None
    assert day_meant(tmp_path / "absent", None, None) is None
    assert not (tmp_path / "absent").exists()
