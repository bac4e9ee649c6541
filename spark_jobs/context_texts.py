"""context_texts: the distinct texts of events, such as search queries, each to be read by the encoders once.

A log repeats its queries, and a model reads a text as a whole: a table of distinct texts is what an encoder pays for.
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipeline import config as configs
from pipeline.errors import ConfigError
from pipeline.source import Source
from pipeline.texts import ID_DIGITS
from spark_jobs.tables import Made

HALF_CHARACTER = "\ufffd"
"""What is left of a character that a cut goes through."""


def make(interactions: DataFrame, config: configs.ContextTexts, source: Source) -> Made:
    """One row per distinct text of the source's text_context columns; none where it names no such column."""
    if config.max_text_bytes < 4:
        raise ConfigError(f"[context_texts] max_text_bytes must be 4 or more, not {config.max_text_bytes}")
    # Filtered by null, so that an event without a query counts nowhere; distinct, so that it counts once.
    values = F.array(*[F.try_element_at("context", F.lit(name)) for name in source.events.text_context])
    said = F.explode(F.array_distinct(values.cast("array<string>"))).alias("said")
    texts = interactions.select(said).filter(F.col("said").isNotNull())
    counted = texts.groupBy("said").agg(F.count(F.lit(1)).alias("num_events"))
    rows = counted.select(
        F.substring(F.sha2("said", 256), 1, ID_DIGITS).alias("text_id"),
        _cut("said", config.max_text_bytes).alias("text"),
        "num_events",
    )
    return Made(rows=rows, order=("text_id",))


def _cut(name: str, max_bytes: int) -> Column:
    """The whole characters that fit: what a cut leaves of one is made a mark first and taken off then."""
    head = F.substring(F.encode(name, "UTF-8"), 1, max_bytes).cast("string")
    whole = F.rtrim(F.make_valid_utf8(head), F.lit(HALF_CHARACTER))
    return F.when(F.octet_length(name) <= max_bytes, F.col(name)).otherwise(whole)


if __name__ == "__main__":
    from spark_jobs.submit import submit

    submit("context_texts")
