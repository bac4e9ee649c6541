"""Files that come with our packages, as paths, also where the packages are imported out of a zip archive.

Templates, measures and pages are read by libraries that want a path. An archive (`python -m spark_jobs.package`) is
therefore unpacked once into the cache folder, under the digest of its bytes.
"""

import functools
import zipfile
from importlib.util import find_spec
from pathlib import Path

from pipeline import assets
from pipeline.storage import file_digest

DIGITS = 16


def packaged(name: str) -> Path:
    """Where a file or folder that comes with a package lies; the package is not imported.

    Args:
        name: `package/path`.
    """
    package, _, rest = name.partition("/")
    found = find_spec(package)
    assert found is not None, f"{package} is no package"
    assert found.submodule_search_locations, f"{package} is no package"
    folder = Path(found.submodule_search_locations[0])
    if not folder.is_dir():
        folder = _unpacked(folder.parent) / package
    return folder / rest


def archive() -> Path | None:
    """The zip archive that this code is imported from; None where it lies in a folder."""
    home = Path(__file__).parents[1]
    return home if home.is_file() else None


@functools.cache
def _unpacked(zipped: Path) -> Path:
    def unpack(aside: Path) -> None:
        with zipfile.ZipFile(zipped) as archived:
            archived.extractall(aside)

    return assets.made_once(f"packages-{file_digest(zipped)[:DIGITS]}", unpack)
