"""What the tests of the models share: the CTR models' world, and a reader of pages."""

from functools import partial
from html.parser import HTMLParser

import ctr_datasets
import model_children
import pytest
from preloaded_python import preloaded


@pytest.fixture(scope="session")
def make_ctr_world():
    """The function that writes a world: `make_ctr_world(folder, num_users=…) -> {dataset name: Dataset}`."""
    return ctr_datasets.make_ctr_world


@pytest.fixture(scope="session")
def write_ctr_records():
    """`write_ctr_records(world, config=…, text_context=…)` makes the world's ctr_records and returns the dataset."""
    return ctr_datasets.write_ctr_records


class Page(HTMLParser):
    """Tags, attributes and words of a page; VOID tags have no end."""

    VOID = frozenset({"meta", "line", "circle", "path", "rect", "br", "col"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="session")
def page_of():
    """`page_of(html)` reads a page and fails where a tag is not closed in its turn."""
    return Page


@pytest.fixture(scope="session")
def fork_child(tmp_path_factory):
    """`fork_child(work, …)` starts a process that calls a function of `model_children`, and imports next to nothing."""
    with preloaded(tmp_path_factory.mktemp("torch"), model_children.PRELOADED, {}) as command:
        yield partial(model_children.start, command)
