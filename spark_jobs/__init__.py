"""Tables: DataFrame in, DataFrame out; the only home of pyspark. Every stage file can be spark-submitted."""
