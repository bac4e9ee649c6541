"""Which engine runs the model: the one a setting names, or the fastest on a few of the texts."""

from collections.abc import Callable, Sequence

from msd_models.engines import LayeredEngine, ModelReading
from msd_models.packed_engine import PackedEngine
from msd_models.plain_engine import PlainEngine
from pipeline.errors import ConfigError

ENGINES: dict[str, Callable[[ModelReading], LayeredEngine]] = {"plain": PlainEngine, "packed": PackedEngine}
AUTO = "auto"


def check_engine(name: str) -> None:
    """Raises a ConfigError for an engine that there is not."""
    if name != AUTO and name not in ENGINES:
        raise ConfigError(f"engine '{name}' is unknown; choose {AUTO}, {', '.join(ENGINES)}")


def open_engine(name: str, reading: ModelReading, ids: Sequence[Sequence[int]]) -> LayeredEngine:
    """The engine of that name, loaded.

    Args:
        name: of the engine, or auto.
        reading: the model and how it reads.
        ids: prompts there are to read, whole.
    """
    return ENGINES["plain" if name == AUTO else name](reading)
