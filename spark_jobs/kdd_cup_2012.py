"""KDD Cup 2012 Track 2 (Tencent soso.com search ads) as published: training.txt and the files its ids point into.

A row of training.txt is a session: how often an ad was shown and clicked. It becomes as many events as impressions, the
clicked ones first. Words are hashed: a text is its numbers, `t12 t7`. There is no time, so that row order is the time.
User 0 stands for everybody who was not logged in; it becomes one user per query, lest strangers share a history.
"""

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.errors import SourceError
from spark_jobs.entries import ROW_ORDER, Entry, as_rows, exploded, fields, lines

TRAINING = (
    "click", "impression", "display_url", "ad_id", "advertiser_id", "depth", "position", "query_id", "keyword_id",
    "title_id", "description_id", "user_id",
)  # fmt: skip
ITEMS = ("ad_id", "title", "description", "keyword", "advertiser_id", "display_url")
EVENTS = ("user_id", "ad_id", "label", "query", "query_id", "depth", "position", "display_url", "advertiser_id")
USERS = ("user_id", "gender", "age")
TOKENS = {
    "query": "queryid_tokensid.txt",
    "keyword": "purchasedkeywordid_tokensid.txt",
    "title": "titleid_tokensid.txt",
    "description": "descriptionid_tokensid.txt",
}
NOBODY = "0"


def read(spark: SparkSession, entry: Entry) -> DataFrame:
    """The rows of [items] (one per ad, as its first session shows it), [events] or [users].

    Raises:
        SourceError: a file of the format is missing.
    """
    columns, reader = {"items": (ITEMS, _ads), "events": (EVENTS, _impressions), "users": (USERS, _profiles)}[
        entry.label
    ]
    entry.check_columns(columns)
    return reader(spark, entry)


def _table(spark: SparkSession, entry: Entry, name: str, columns: Sequence[str]) -> DataFrame:
    path = entry.path / name
    if not path.is_file():
        wanted = ", ".join(["training.txt", *TOKENS.values(), "userid_profile.txt"])
        raise SourceError(f"[{entry.label}] {entry.path.name} has no {name}; a folder with {wanted} was wanted")
    return fields(lines(spark, [path]), columns)


def _texts(spark: SparkSession, entry: Entry, name: str) -> DataFrame:
    """Id → words, for one of the token files; an id that stands twice keeps its first words."""
    rows = _table(spark, entry, TOKENS[name], ("id", "tokens")).filter(F.col("problem").isNull())
    words = F.array_join(F.transform(F.split("cells.tokens", r"\|"), lambda token: F.concat(F.lit("t"), token)), " ")
    first = F.min_by(words, F.col("row_order")).alias(name)
    return rows.groupBy(F.col("cells.id").alias(f"{name}_id")).agg(first)


def _ads(spark: SparkSession, entry: Entry) -> DataFrame:
    rows = _table(spark, entry, "training.txt", TRAINING)
    whole = rows.filter(F.col("problem").isNull())
    order = F.struct(*[F.col("row_order")[key] for key in ROW_ORDER])
    first = whole.groupBy(F.col("cells.ad_id").alias("id")).agg(F.min_by(F.struct("*"), order).alias("first"))
    ads = first.select("first.row_order", "first.line", "first.problem", "first.cells.*")
    for name in ("title", "description", "keyword"):
        ads = ads.join(_texts(spark, entry, name), on=f"{name}_id", how="left")
    return as_rows(ads, F.struct(*ITEMS))


def _impressions(spark: SparkSession, entry: Entry) -> DataFrame:
    rows = _table(spark, entry, "training.txt", TRAINING)
    clicks, shown = (F.col(f"cells.{name}").try_cast("int") for name in ("click", "impression"))
    is_counted = F.coalesce((clicks >= 0) & (shown >= clicks) & (shown > 0), F.lit(False))
    problem = F.coalesce("problem", F.when(~is_counted, F.lit("clicks and impressions that cannot be")))
    counted = rows.withColumn("problem", problem).select("*", clicks.alias("clicks"), shown.alias("shown"))
    events = exploded(counted, _labels())
    with_query = events.withColumn("query_id", F.col("cells.query_id")).join(
        _texts(spark, entry, "query"), on="query_id", how="left"
    )
    anonymous = F.concat_ws("-", F.lit(NOBODY), F.col("cells.query_id"))
    user = F.when(F.col("cells.user_id") == NOBODY, anonymous).otherwise(F.col("cells.user_id"))
    rest = [F.col(f"cells.{name}") for name in ("query_id", "depth", "position", "display_url", "advertiser_id")]
    cells = F.struct(user.alias("user_id"), F.col("cells.ad_id"), F.col("part").alias("label"), "query", *rest)
    return as_rows(with_query, cells)


def _labels() -> Column:
    """Clicks, then impressions without one, as text."""
    clicked = F.array_repeat(F.lit("1"), F.greatest("clicks", F.lit(0)))
    passed = F.array_repeat(F.lit("0"), F.greatest(F.col("shown") - F.col("clicks"), F.lit(0)))
    return F.concat(clicked, passed)


def _profiles(spark: SparkSession, entry: Entry) -> DataFrame:
    return as_rows(_table(spark, entry, "userid_profile.txt", USERS), F.col("cells"))
