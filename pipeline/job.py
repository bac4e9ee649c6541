"""One stage about to run, and how its maker is found."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.content_store import ContentStore
from pipeline.kept_vectors import KEPT_VECTORS, KeptVectors
from pipeline.source import Source
from pipeline.stages import Stage
from pipeline.storage import Dataset

CONTENT_STORES = "content_store"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage about to run: everything its maker may know."""

    stage: Stage
    config: Any
    source: Source
    inputs: Mapping[str, Dataset]
    output: Dataset

    def open_store(self, *, inbox: str = "") -> ContentStore:
        """What the stage has made so far in this work folder, whatever the inputs and settings were."""
        return ContentStore(self._work / CONTENT_STORES / self.stage.name, inbox=inbox)

    def open_kept(self) -> KeptVectors:
        """The vectors any stage has made so far in this work folder, by the text that was read."""
        return KeptVectors(self._work / KEPT_VECTORS)

    @cached_property
    def rows_in(self) -> int:
        """Rows of the first input, which a row-wise stage goes over."""
        return self.inputs[self.stage.inputs[0]].num_rows()

    @property
    def _work(self) -> Path:
        return self.output.folder.parent.parent


def load(maker: str) -> Callable[..., Any]:
    """The function behind `module:function`."""
    module, _, function = maker.partition(":")
    return getattr(importlib.import_module(module), function)
