"""Everything a user can cause, as one tree; each error knows the exit code of the command it ends.

MsdError                    1
├── UsageError              2   the call is wrong
│   ├── ConfigError         2   a setting is unknown or out of range
│   ├── SourceError         2   a source file, column or TOML key is missing or wrong
│   └── MissingExtra        2   a library of an optional extra is not installed
├── StageError              1   a stage could not make its dataset
│   └── SpaceMismatch       1   vectors of two spaces met
├── BusyError               1   another run is making the same dataset
└── ServiceError            1   Java, Redis or a model cannot be reached
"""

import importlib
from types import ModuleType


class MsdError(Exception):
    """A failure with a sentence for the user: what was found, what was wanted, the next command."""

    exit_code = 1


class UsageError(MsdError):
    """The call itself is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting is unknown, of the wrong type or out of its range."""


class SourceError(UsageError):
    """A source names a file, a column or a key that is not there or cannot be read."""


class MissingExtra(UsageError):
    """A library of an optional extra is not installed."""


class StageError(MsdError):
    """A stage could not make its dataset."""


class SpaceMismatch(StageError):
    """Vectors of two spaces met in one table, batch or request."""


class BusyError(MsdError):
    """Another run is making the same dataset."""


class ServiceError(MsdError):
    """A service the stage needs (Java, Redis, a model) cannot be reached."""


def require(module: str, *, needed_by: str, extra: str) -> ModuleType:
    """Imports a heavy library or says which extra brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtra(f"{needed_by} needs {module}: install the {extra} extra") from error
