"""Two lanes for the suite: which tests stay together in one pytest-xdist worker, and which groups start first."""

from collections.abc import Sequence

import pytest

LONGEST_FIRST = (
    "tests/dags/test_scheduler.py",
    "flow",
    "vllm",
    "tests/spark_jobs/test_submits.py",
    "tests/flow/test_sponsored_search.py",
    "tests/flow/test_unseen_data.py",
    "shop",
)
"""Groups that take minutes start first, so that no lane is left with one of them at the end."""


def deal(items: list[pytest.Item]) -> None:
    """Puts each file into a group of its own, unless its tests name one, and sorts the groups.

    Fixtures of a module or a session are then made once: in the worker that runs their group.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.location[0]))
    items.sort(key=lambda item: _turn(_group_of(item)))


def _group_of(item: pytest.Item) -> str:
    marker = item.get_closest_marker("xdist_group")
    assert marker is not None
    return str(marker.args[0])


def _turn(group: str, first: Sequence[str] = LONGEST_FIRST) -> int:
    # A stable sort: the other groups keep the order of their files.
    return first.index(group) if group in first else len(first)
