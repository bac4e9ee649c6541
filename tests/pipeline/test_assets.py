"""Assets: fetched once, checked by digest, never half there."""

import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest

from pipeline import assets
from pipeline.errors import ServiceError, UsageError
from pipeline.storage import file_digest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and a package index that is a local folder."""
    monkeypatch.setenv("MSD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    (tmp_path / "index").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path, cache):
    """A real wheel in the index, with its right digest."""
    path = tmp_path / "index" / "tiny_asset-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_asset/data/words.txt", "one\ntwo\n")
        archive.writestr("tiny_asset/data/deep/er.txt", "three\n")
        archive.writestr("tiny_asset/__init__.py", "")
        archive.writestr("tiny_asset-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-asset\nVersion: 1.0\n")
        archive.writestr("tiny_asset-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_asset-1.0.dist-info/RECORD", "")
    return assets.Wheel(
        requirement="tiny-asset==1.0", sha256=file_digest(path), member_prefix="tiny_asset/data/", terms="made here"
    )


def fetch(name, wheel):
    return assets.made_once(name, lambda aside: assets._unpack(wheel, aside))


def test_a_wheel_is_unpacked_below_its_prefix(wheel):
    folder = fetch("tiny", wheel)
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.txt")) == ["deep/er.txt", "words.txt"]
    assert (folder / "words.txt").read_text() == "one\ntwo\n"


def test_a_wheel_of_another_digest_is_refused_and_leaves_nothing(wheel, cache):
    with pytest.raises(ServiceError, match=r"tiny-asset==1\.0: the downloaded wheel is not the one"):
        fetch("tiny", replace(wheel, sha256="0" * 64))
    assert list(cache.iterdir()) == []
    assert fetch("tiny", wheel).is_dir()


def test_a_wheel_that_cannot_be_had_says_how_to_go_on(wheel, cache):
    with pytest.raises(ServiceError, match=r"cannot download tiny-asset==2\.0 from PyPI.*msd doctor"):
        fetch("tiny", replace(wheel, requirement="tiny-asset==2.0"))
    assert list(cache.iterdir()) == []


def test_what_is_there_is_not_made_again(cache):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "x").write_text("x")

    assert assets.made_once("thing", make) == assets.made_once("thing", make) == cache / "thing"
    assert len(made) == 1


def test_a_maker_that_fails_leaves_nothing(cache):
    def make(folder):
        (folder / "x").write_text("half")
        raise ServiceError("no more")

    with pytest.raises(ServiceError):
        assets.made_once("thing", make)
    assert list(cache.iterdir()) == []


MAKE_SLOWLY = """
import sys, time
from pipeline.assets import made_once
def make(folder):
    for number in range(20):
        (folder / str(number)).write_text(sys.argv[1])
        time.sleep(0.01)
print(len(list(made_once("thing", make).iterdir())))
"""


def test_two_processes_at_once_both_get_a_whole_folder(cache):
    makers = [
        subprocess.Popen([sys.executable, "-c", MAKE_SLOWLY, letter], stdout=subprocess.PIPE, text=True)
        for letter in "ab"
    ]
    assert [maker.communicate(timeout=60)[0] for maker in makers] == ["20\n", "20\n"]
    assert [path.name for path in cache.iterdir()] == ["thing"]
    assert len({(cache / "thing" / str(number)).read_text() for number in range(20)}) == 1


@pytest.mark.parametrize("reference", ["nothing", "nothing/file.txt", "", "/etc"])
def test_an_unknown_asset_names_the_known_ones(cache, reference):
    with pytest.raises(UsageError, match=r"known are .*movielens-100k"):
        assets.locate(reference)


def test_a_file_an_asset_lacks_is_named(cache):
    folder = assets.cache_folder() / "movielens-100k"
    folder.mkdir(parents=True)
    with pytest.raises(UsageError, match=r"asset movielens-100k holds no nothing\.txt; delete"):
        assets.locate("movielens-100k/nothing.txt")
