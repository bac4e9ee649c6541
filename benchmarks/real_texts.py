"""Texts of real items and histories of real users, from a file or from MovieLens-100K."""

from collections import defaultdict
from pathlib import Path

from msd_models.behaviours import Behaviours
from pipeline import assets
from pipeline.texts import item_text, user_text

HISTORY_ITEMS = 8


def shown(history: Behaviours) -> str:
    """A history as one text."""
    return user_text({}, history.items, history.labels)


def read_items(file: Path | None, count: int) -> list[str]:
    """Texts of items."""
    rows = _table(file or assets.locate("movielens-100k") / "ml-100k.item")
    return [_text(row) for row in rows[:count]]


def read_histories(file: Path | None, count: int) -> list[Behaviours] | list[str]:
    """Users with their latest eight items."""
    if file is not None:
        return [row["text"] for row in _table(file)[:count]]
    folder = assets.locate("movielens-100k")
    titles = {row["item_id"]: _text(row) for row in _table(folder / "ml-100k.item")}
    events = defaultdict(list)
    for row in sorted(_table(folder / "ml-100k.inter"), key=lambda row: float(row["timestamp"])):
        events[row["user_id"]].append((titles[row["item_id"]], int(float(row["rating"]) >= 4)))
    latest = [tuple(zip(*history[-8:], strict=True)) for _, history in sorted(events.items())[:count]]
    return [Behaviours(profile="", items=items, labels=labels) for items, labels in latest]


def _text(row: dict[str, str]) -> str:
    title = row.get("title") or row["movie_title"]
    genres = (row.get("genres") or row.get("class") or "").replace("|", " ")
    return item_text(title, {"genres": genres, "year": row.get("release_year", "")})


def _table(file: Path) -> list[dict[str, str]]:
    """Rows of a Parquet, CSV or RecBole file."""
    from pyarrow import csv, parquet

    if file.suffix == ".parquet":
        return parquet.read_table(file).to_pylist()
    tabs = csv.ParseOptions(delimiter="," if file.suffix == ".csv" else "\t", quote_char=file.suffix == ".csv" and '"')
    table = csv.read_csv(file, parse_options=tabs)
    names = [name.split(":")[0] for name in table.column_names]
    return [{name: str(value) for name, value in zip(names, row.values(), strict=True)} for row in table.to_pylist()]
