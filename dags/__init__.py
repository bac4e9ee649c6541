"""Schedules: each file is one DAG; chain/ builds them, laptop/ runs them on one machine."""
