"""The table stages in DuckDB's SQL, for spark_scaling.py: the same rows, in the same order, from the same files."""

import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb

TABLES = {
    "items": """
        SELECT trim(item_id) AS item_id, trim(title) AS title, trim(title) AS text, trim(category) AS category
        FROM read_parquet('{folder}/items.parquet') WHERE trim(item_id) <> '' AND trim(title) <> ''
        QUALIFY row_number() OVER (PARTITION BY trim(item_id) ORDER BY file_row_number) = 1
        ORDER BY item_id""",
    "interactions": """
        WITH judged AS (
            SELECT trim(user_id) AS user_id, trim(item_id) AS item_id, make_timestamp(timestamp * 1000000) AS event_at,
                click AS is_click, row_number() OVER (ORDER BY timestamp, filename, file_row_number) - 1 AS event_id,
                count(*) OVER () AS total
            FROM read_parquet('{folder}/events/*.parquet', filename = true, file_row_number = true)
            SEMI JOIN items USING (item_id)
            WHERE trim(user_id) <> '' AND timestamp >= 0 AND timestamp < epoch(TIMESTAMP '2035-01-01')
                AND click IN (0, 1)
        ), cuts AS (
            SELECT min(event_at) FILTER (event_id = (total * 0.8)::BIGINT) AS valid_from,
                min(event_at) FILTER (event_id = (total * 0.9)::BIGINT) AS test_from FROM judged
        )
        SELECT event_id, user_id, item_id, event_at, is_click, CASE WHEN event_at < valid_from THEN 'train'
            WHEN event_at < test_from THEN 'valid' ELSE 'test' END AS split
        FROM judged, cuts ORDER BY event_id""",
    "users": "SELECT DISTINCT user_id FROM interactions ORDER BY user_id",
    "item_stats": """
        WITH log AS (
            SELECT min(event_at) AS log_began_at,
                max(event_at) FILTER (split = 'train') + INTERVAL 1 MICROSECOND AS counted_until FROM interactions
        ), counted AS (
            SELECT item_id, category, coalesce(exposures, 0) AS exposures, coalesce(clicks, 0) AS clicks, began_at
            FROM items LEFT JOIN (
                SELECT item_id, count(*) FILTER ({is_counted}) AS exposures,
                    coalesce(sum(is_click) FILTER ({is_counted}), 0) AS clicks, min(event_at) AS began_at
                FROM interactions, log GROUP BY item_id
            ) USING (item_id)
        ), rates AS (
            SELECT category, sum(clicks) / nullif(sum(exposures), 0) AS own_ctr FROM counted GROUP BY category
        ), total AS (SELECT sum(clicks) / greatest(sum(exposures), 1) AS log_ctr FROM counted)
        SELECT item_id, exposures, clicks::BIGINT AS clicks, coalesce(own_ctr, log_ctr) AS category_ctr,
            (clicks + {item_prior} * coalesce(own_ctr, log_ctr)) / (exposures + {item_prior}) AS ctr_shrunk,
            row_number() OVER (ORDER BY exposures DESC, item_id) AS exposure_rank,
            coalesce(began_at, log_began_at) AS first_seen_at, counted_until
        FROM counted LEFT JOIN rates USING (category), total, log ORDER BY item_id""",
    "user_stats": """
        WITH log AS (
            SELECT max(event_at) FILTER (split = 'train') + INTERVAL 1 MICROSECOND AS counted_until FROM interactions
        ), counted AS (
            SELECT user_id, count(*) FILTER ({is_counted}) AS exposures,
                coalesce(sum(is_click) FILTER ({is_counted}), 0)::BIGINT AS clicks, min(event_at) AS first_event_at,
                max(event_at) FILTER ({is_counted}) AS last_event_at
            FROM interactions, log GROUP BY user_id
        ), total AS (SELECT coalesce(sum(clicks) / nullif(sum(exposures), 0), 0) AS log_ctr FROM counted)
        SELECT user_id, exposures, clicks, (clicks + {user_prior} * log_ctr) / (exposures + {user_prior}) AS ctr_shrunk,
            first_event_at, last_event_at, counted_until
        FROM users JOIN counted USING (user_id), total, log ORDER BY user_id""",
    "histories": """
        WITH clicks AS (
            SELECT user_id, event_at, row_number() OVER byself AS num_events,
                list({{'item_id': item_id, 'event_at': event_at, 'is_click': is_click}}) OVER (
                    byself ROWS BETWEEN {max_length} - 1 PRECEDING AND CURRENT ROW) AS latest
            FROM interactions WHERE is_click = 1 WINDOW byself AS (PARTITION BY user_id ORDER BY event_at, event_id)
        ), times AS (
            SELECT user_id, event_at, max(num_events) AS num_events, arg_max(latest, num_events) AS latest
            FROM clicks GROUP BY user_id, event_at
        ), snapshots AS (SELECT DISTINCT user_id, {snapshot} AS snapshot_at FROM interactions),
        found AS (
            SELECT s.user_id, snapshot_at, num_events, latest FROM snapshots s
            ASOF JOIN times t ON s.user_id = t.user_id AND s.snapshot_at > t.event_at
        ), banded AS (
            SELECT *, CASE WHEN num_events >= {min_events}
                THEN floor(ln(num_events / {min_events}) / ln({growth}) + 1e-9) ELSE -1 END AS band FROM found
        )
        SELECT user_id, snapshot_at, num_events, list_transform(latest, x -> x.item_id) AS item_ids,
            list_transform(latest, x -> x.event_at) AS event_times, list_transform(latest, x -> x.is_click) AS labels,
            num_events >= {min_events}
                AND band > lag(band, 1, -1) OVER (PARTITION BY user_id ORDER BY snapshot_at) AS is_embedded
        FROM banded ORDER BY user_id, snapshot_at""",
}
"""Rows of each dataset; columns that Spark's has beside them (attributes, context) are empty in this source."""
UNITS = {"event": "event_at", "hour": "date_trunc('hour', event_at)", "day": "date_trunc('day', event_at)"}
IS_COUNTED = "split = 'train' AND event_at < counted_until"
COMPARED = {
    "items": "item_id, title, text, category",
    "interactions": "event_id, user_id, item_id, epoch_us(event_at), is_click::INT, split",
    "users": "user_id",
    "item_stats": "item_id, exposures, clicks, round(category_ctr, 9), round(ctr_shrunk, 9), exposure_rank,"
    " epoch_us(first_seen_at), epoch_us(counted_until)",
    "user_stats": "user_id, exposures, clicks, round(ctr_shrunk, 9), epoch_us(first_event_at),"
    " epoch_us(last_event_at), epoch_us(counted_until)",
    "histories": "user_id, epoch_us(snapshot_at), num_events, item_ids, is_embedded,"
    " list_transform(event_times, x -> epoch_us(x)), list_transform(labels, x -> x::INT)",
}
"""What must be equal of each row; rates to nine digits, as sums of doubles depend on their order."""


class DuckTables:
    """A DuckDB of its own, whose tables are Parquet files below folder/duckdb."""

    def __init__(self, folder: Path, *, threads: int, config: dict[str, Any], max_length: int) -> None:
        """Opens it; what it cannot hold in memory goes to the folder."""
        self.folder = folder
        self.made = folder / "duckdb"
        shutil.rmtree(self.made, ignore_errors=True)
        self.made.mkdir()
        options = {"threads": threads, "temp_directory": str(self.made / "spilled"), "memory_limit": "6GB"}
        self.link = duckdb.connect(config=options)
        self.link.execute("SET TimeZone = 'UTC'")
        histories = config["histories"]
        self.words = {
            "folder": str(folder),
            "is_counted": IS_COUNTED,
            "item_prior": config["item_stats"].prior_exposures,
            "user_prior": config["user_stats"].prior_exposures,
            "max_length": max_length,
            "snapshot": UNITS[histories.snapshots],
            "min_events": histories.embed_min_events,
            "growth": histories.embed_growth,
        }

    def __enter__(self) -> Self:
        """The tables themselves."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Closes the database."""
        self.link.close()

    def make(self, name: str) -> float:
        """Writes one table, of the ones before it; returns the seconds."""
        path = self.made / f"{name}.parquet"
        started = time.monotonic()
        query = TABLES[name].format(**self.words)
        self.link.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
        seconds = time.monotonic() - started
        self.link.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{path}')")
        return seconds

    def check(self, name: str, there: Path) -> None:
        """Ends the benchmark where the rows are not those of the shards in the folder, in their order."""
        ours, theirs = (
            self._digest(name, where) for where in (self.made / f"{name}.parquet", there / "part-*.parquet")
        )
        if ours != theirs:
            raise SystemExit(f"{name}: DuckDB has {ours} (rows, digest), Spark {theirs}")

    def _digest(self, name: str, files: Path) -> tuple[int, int]:
        """Rows, and a sum over a hash of each row and its place."""
        numbered = f"SELECT hash({COMPARED[name]}, row_number() OVER ()) AS digest FROM read_parquet('{files}')"
        row = self.link.execute(f"SELECT count(*), sum(digest::HUGEINT) FROM ({numbered})").fetchone()
        assert row is not None
        return int(row[0]), int(row[1])
