"""`python -m dags.laptop`."""

from dags.laptop.cli import main

main()
