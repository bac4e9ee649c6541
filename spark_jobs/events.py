"""Parses and judges the rows of an event log: who, which item, when, clicked or not."""

from datetime import UTC, datetime, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipeline import config as configs
from pipeline.errors import ConfigError, SourceError
from pipeline.schemas import SPLITS
from pipeline.source import Label, Source, SplitBy
from spark_jobs.readers import as_it_stood, attributes, cell
from spark_jobs.times import parse_time

_TRUTHS = ("1", "1.0", "true", "True", "TRUE")
_FALSEHOODS = ("0", "0.0", "false", "False", "FALSE")


def judge(rows: DataFrame, known: DataFrame, config: configs.Interactions, source: Source) -> DataFrame:
    """The rows typed, with a `reason` where one cannot be used.

    Args:
        rows: of the reader; with `row_number` where the log has no time column.
        known: the item ids there are, with `is_known`.
        config: settings of interactions.
        source: whose [events] and [labels] say what the columns mean.
    """
    table = source.events
    typed = rows.select(
        "row_order",
        "row_json",
        "cells",
        "problem",
        F.lit(0).alias("position"),
        cell(table.user).alias("user_id"),
        cell(table.item).alias("item_id"),
        _event_at(table.time).alias("event_at"),
        (cell(table.time).isNull() if table.time else F.lit(False)).alias("has_no_time"),
        _is_click(table.label).alias("is_click"),
        (cell(table.label.column).isNull() if table.label.column else F.lit(False)).alias("has_no_label"),
        _given_split(source).alias("given_split"),
        attributes(tuple(dict.fromkeys((*table.context, *table.text_context)))).alias("context"),
        (cell(table.history) if table.history else F.lit(None).cast("string")).alias("history"),
    )
    joined = typed.join(known, on="item_id", how="left")
    judged = joined.withColumn("reason", _reason(config, source))
    # Of a good row nobody asks for its text as it stood in the file, and the log is held with what is left here.
    judged = judged.withColumn("row_json", F.when(F.col("reason").isNotNull(), as_it_stood()))
    return judged.drop("cells", "problem", "has_no_time", "has_no_label", "is_known")


def is_later(config: configs.Interactions) -> Column:
    """Whether a judged row is of a day after the last one that counts."""
    if not config.last_day:
        return F.lit(False)
    end = _instant("last_day", config.last_day) + timedelta(days=1)
    return F.coalesce(F.col("event_at") >= F.lit(end), F.lit(False))


def _event_at(time: str) -> Column:
    """Without a time column row 0 of the log is the second 1 of 1970, so that what came before it has a time too."""
    return parse_time(cell(time)) if time else F.timestamp_seconds(F.col("row_number") + 1)


def _is_click(label: Label) -> Column:
    if not label.column:
        return F.lit(1).cast("tinyint")
    text = cell(label.column)
    if not label.operator:
        return F.when(text.isin(*_TRUTHS), 1).when(text.isin(*_FALSEHOODS), 0).cast("tinyint")
    number = text.try_cast("double")
    compared = {
        ">=": number >= label.threshold,
        ">": number > label.threshold,
        "<=": number <= label.threshold,
        "<": number < label.threshold,
        "==": number == label.threshold,
    }[label.operator]
    return F.when(~F.isnan(number), compared.cast("tinyint"))


def _given_split(source: Source) -> Column:
    if source.labels.split_by is not SplitBy.GIVEN:
        return F.lit(None).cast("string")
    if source.events.split:
        return cell(source.events.split)
    if "" in source.events.files.paths:
        raise SourceError(
            f'{source.name}: [labels] split by = "given" needs the column in [events] split, or files by split:'
            ' path = { train = "…", test = "…" }'
        )
    return F.col("given_split")


def _reason(config: configs.Interactions, source: Source) -> Column:
    is_label_wrong = "label is no number" if source.events.label.operator else "label is no 0 or 1"
    is_given = source.labels.split_by is SplitBy.GIVEN
    bad_split = F.lit(is_given) & ~F.coalesce(F.col("given_split").isin(*SPLITS), F.lit(False))
    return (
        F.when(F.col("problem").isNotNull(), F.col("problem"))
        .when(F.col("user_id").isNull(), F.lit("no user id"))
        .when(F.col("item_id").isNull(), F.lit("no item id"))
        .when(F.col("has_no_time"), F.lit("no time"))
        .when(F.col("event_at").isNull(), F.lit("time cannot be parsed"))
        .when(F.col("event_at") < F.timestamp_seconds(F.lit(0)), F.lit("time before 1970"))
        .when(F.col("event_at") >= _latest(config), F.lit(f"time after {config.latest_time}"))
        .when(F.col("has_no_label"), F.lit("no label"))
        .when(F.col("is_click").isNull(), F.lit(is_label_wrong))
        .when(bad_split, F.lit(f"split is none of {', '.join(SPLITS)}"))
        .when(F.col("is_known").isNull(), F.lit("unknown item"))
    )


def _latest(config: configs.Interactions) -> Column:
    return F.lit(_instant("latest_time", config.latest_time))


def _instant(setting: str, text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"[interactions] {setting} must be a date like 2035-01-01, not '{text}'") from error
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
