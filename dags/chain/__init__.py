"""What the DAG files are built with: stages become tasks, their inputs become edges."""
