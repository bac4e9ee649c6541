"""Times of a source, written as numbers or as ISO 8601, as UTC timestamps."""

from pyspark.sql import Column
from pyspark.sql import functions as F

MILLISECONDS_FROM = 100_000_000_000
"""A number from here on counts milliseconds: as seconds it would be the year 5138."""
USUAL_UP_TO = 1_000_000_000_000_000
"""A whole number up to here is a time whose microseconds fit a bigint."""


def parse_time(text: Column) -> Column:
    """Epoch seconds, epoch milliseconds or ISO 8601; null where it is none of these."""
    # Nearly every log has whole numbers, and exact arithmetic with fractions costs ten times as much.
    whole = text.try_cast("bigint")
    # The absolute value of the smallest bigint is none.
    is_usual = F.coalesce(whole.between(-USUAL_UP_TO, USUAL_UP_TO), F.lit(False))
    is_seconds = (whole < MILLISECONDS_FROM) & (whole > -MILLISECONDS_FROM)
    from_whole = F.timestamp_micros(whole * F.when(is_seconds, 1_000_000).otherwise(1_000))
    number = text.try_cast("decimal(38,6)")
    seconds = F.when(F.abs(number) >= MILLISECONDS_FROM, number / 1000).otherwise(number)
    from_number = F.timestamp_micros((seconds * 1_000_000).try_cast("bigint"))
    # A bare time of day would be taken for today's.
    from_text = F.when(text.rlike(r"^\d{4}-\d{2}"), text.try_cast("timestamp"))
    return F.when(is_usual, from_whole).when(number.isNotNull(), from_number).otherwise(from_text)


def micros(column: Column | str) -> Column:
    """Microseconds since 1970, for arithmetic."""
    return F.unix_micros(F.col(column) if isinstance(column, str) else column)
