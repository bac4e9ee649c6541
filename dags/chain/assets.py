"""What each DAG hands to the next, one event a day; the day is the partition key."""

from airflow.sdk import Asset

TEACHER_OUTPUTS = Asset("teacher_outputs", group="msd")
STUDENT = Asset("student", group="msd")
VECTORS = Asset("vectors", group="msd")
PUBLICATION = Asset("publication", group="msd")
REPORT = Asset("report", group="msd")
