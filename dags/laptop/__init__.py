"""The schedules on one machine: brings a whole Airflow up on the loopback, runs dates through it, takes it down."""
