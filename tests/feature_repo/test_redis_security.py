"""TLS is verified, users and passwords come from the environment, and neither is ever told."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tls_tunnel import Certificates, listening_redis, make_certificates, tunnel

from feature_repo.definitions import item_plans
from feature_repo.lookup import vector_lookup
from feature_repo.online import delete_fields, differing_keys, write_rows
from feature_repo.redis_address import Redis, connect, parse_url
from feature_repo.redis_link import link, reached
from feature_repo.redis_server import find_binary, running_redis
from feature_repo.resp import command
from feature_repo.store import quiet_feast, require_feast, write_settings
from pipeline import schemas
from pipeline.errors import ServiceError, UsageError

pytestmark = pytest.mark.redis
PASSWORD = "pW9-not/for:show@all"
QUOTED = "pW9-not%2Ffor%3Ashow%40all"


@dataclass(frozen=True)
class Secured:
    """A server that speaks TLS only and knows the user `msd`."""

    port: int
    certificates: Certificates

    def url(self, user: str = "msd", password: str = QUOTED) -> str:
        return f"rediss://{user}:{password}@127.0.0.1:{self.port}/2"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module", params=["tunnel", "listener"])
def secured(
    request: pytest.FixtureRequest, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    if request.param == "tunnel":
        with running_redis(folder) as own, connect(own) as client:
            client.acl_setuser("msd", enabled=True, passwords=[f"+{PASSWORD}"], categories=["+@all"], keys=["*"])
            client.acl_setuser("default", enabled=True, reset=True)
            with tunnel(own.port, certificates, asks_client=False) as port:
                yield Secured(port, certificates)
        return
    binary = Path(shutil.which("redis-server") or find_binary())
    with listening_redis(binary, folder, certificates, asks_client=True) as listening:
        if listening is None:
            pytest.skip(
                f"{binary.name} here is built without TLS (Debian's redis-server is not); tunnelled TLS is tested"
            )
        with pytest.MonkeyPatch.context() as patch:
            _trust(patch, certificates)
            with connect(parse_url(f"rediss://127.0.0.1:{listening}")) as client:
                client.acl_setuser("msd", enabled=True, passwords=[f"+{PASSWORD}"], categories=["+@all"], keys=["*"])
                client.acl_setuser("default", enabled=False)
                yield Secured(listening, certificates)


def _trust(patch: pytest.MonkeyPatch, certificates: Certificates) -> None:
    patch.setenv("REDIS_CA_FILE", str(certificates.authority))
    patch.setenv("REDIS_CERT_FILE", str(certificates.client))
    patch.setenv("REDIS_KEY_FILE", str(certificates.client_key))


@pytest.fixture
def trusted(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> Redis:
    _trust(monkeypatch, secured.certificates)
    monkeypatch.setenv("REDIS_URL", secured.url())
    monkeypatch.delenv("MSD_REDIS_PASSWORD", raising=False)
    return parse_url(secured.url())


def rows(count: int) -> pa.Table:
    stats = item_plans(Path("nowhere"), "s" * 16, "f" * 16)[1]
    numbers = np.arange(count)
    times = pa.array(numbers, pa.int64()).cast(schemas.TIME)
    values = {field.name: pa.array(numbers).cast(field.type) for field in stats.features}
    return pa.table({"item_id": [f"i{number}" for number in numbers], **values, "event_timestamp": times})


def test_rows_travel_over_tls(trusted: Redis, tmp_path: Path):
    """More of them than any buffer holds, both ways at once."""
    stats = item_plans(Path("nowhere"), "s" * 16, "f" * 16)[1]
    table = rows(60_000)
    with running_redis(tmp_path) as redis, link(redis) as opened:
        assert redis.is_tls
        assert write_rows(opened, stats, table, None, "rec") > 60_000 * 100
        assert opened.ask("DBSIZE") == 60_000
        assert not len(differing_keys(opened, stats, table, None, "rec"))
        assert delete_fields(opened, [stats], table.column("item_id").combine_chunks(), "rec") == 60_000 * 4
    assert not (tmp_path / "redis").exists()


def test_neither_side_waits_over_tls(trusted: Redis):
    with link(trusted) as opened:
        opened.ask("SET", "large", b"x" * 50_000)
        received = opened.fetch(command("GET", "large") * 400 + command("ECHO", b"y" * 8_000_000))
        assert len(received) > 400 * 50_000 + 8_000_000
        opened.ask("FLUSHDB")


@pytest.mark.feast
@pytest.mark.slow
def test_feasts_own_client_reads_over_tls(trusted: Redis, tmp_path: Path):
    require_feast()
    from feast import FeatureStore

    stats = item_plans(Path("nowhere"), "s" * 16, "f" * 16)[1]
    with running_redis(tmp_path) as redis, link(redis) as opened:
        write_settings(tmp_path / "feast", redis)
        write_rows(opened, stats, rows(3), None, "msd")
        with quiet_feast():
            from feature_repo.registry import apply_views

            store = FeatureStore(repo_path=str(tmp_path / "feast"))
            apply_views(store, [stats], online=True)
            asked = [{"item_id": "i2"}, {"item_id": "i1"}, {"item_id": "nobody"}]
            answer = store.get_online_features(features=[f"{stats.name}:clicks"], entity_rows=asked).to_dict()
    assert answer["clicks"] == [2, 1, None]
    told = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert told
    assert not any(PASSWORD.encode() in text or QUOTED.encode() in text for text in told)


@pytest.mark.feast
@pytest.mark.slow
def test_a_whole_publication_leaves_no_secret_behind(
    trusted: Redis, world: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    world.publish()
    with vector_lookup(world.workspace.root) as lookup:
        assert lookup.lookup_both(["u001"], ["i001", "nobody"])[1][1].tolist() == [True, False]
    told = [path.read_bytes() for path in world.workspace.root.rglob("*") if path.is_file()]
    told += [text.encode() for text in (*capfd.readouterr(), caplog.text)]
    assert not any(secret.encode() in text for text in told for secret in (PASSWORD, QUOTED))
    assert any(b"MSD_REDIS_PASSWORD" in text for text in told), "named, for other Feast clients"


@pytest.mark.feast
@pytest.mark.slow
def test_the_rights_the_docs_name_are_enough_and_no_more(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    docs = Path("docs/feature_store.md").read_text(encoding="utf-8").splitlines()
    publisher = next(line for line in docs if line.startswith("ACL SETUSER publisher")).split()[3:]
    reading = ["+ping", "+select", "+get", "+hget", "+hmget", "~*msd", "~msd:{msd}:*"]
    with running_redis(tmp_path / "own") as own, connect(own) as client:
        client.execute_command("ACL", "SETUSER", "publisher", *(f">{PASSWORD}" if w == ">…" else w for w in publisher))
        client.execute_command("ACL", "SETUSER", "reader", "on", f">{PASSWORD}", *reading)
        address = f"{QUOTED}@127.0.0.1:{own.port}/0"
        monkeypatch.setenv("REDIS_URL", f"redis://publisher:{address}")
        world.publish()
        monkeypatch.setenv("REDIS_URL", f"redis://reader:{address}")
        with vector_lookup(world.workspace.root) as lookup:
            assert lookup.lookup_both(["u001"], ["i001"])[1][1].all()
        stats = item_plans(Path("nowhere"), "s" * 16, "f" * 16)[1]
        for user, project in (("reader", "msd"), ("reader", "rec"), ("publisher", "rec")):
            with link(parse_url(f"redis://{user}:{address}")) as opened, pytest.raises(ServiceError, match="NOPERM"):
                write_rows(opened, stats, rows(3), None, project)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("rediss://msd:wrong-secret@127.0.0.1:{port}/2", "correct the user and password"),
        ("rediss://nobody:wrong-secret@127.0.0.1:{port}/2", "correct the user and password"),
        ("rediss://127.0.0.1:{port}/2", "correct the user and password"),
        ("redis://msd:wrong-secret@127.0.0.1:{port}/2", "rediss://"),
    ],
)
def test_who_may_not_is_told_so_without_secrets(secured: Secured, trusted: Redis, url: str, said: str):
    with pytest.raises(ServiceError, match=said) as raised:
        reached(parse_url(url.format(port=secured.port)))
    assert "wrong-secret" not in str(raised.value)
    assert "MSD_REDIS_PASSWORD" not in os.environ


def test_an_authority_that_did_not_sign_is_not_believed(
    secured: Secured, trusted: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("REDIS_CA_FILE", str(make_certificates(tmp_path / "other").authority))
    with pytest.raises(ServiceError, match="REDIS_CA_FILE"):
        reached(parse_url(secured.url()))
    monkeypatch.delenv("REDIS_CA_FILE")
    with pytest.raises(ServiceError, match="REDIS_CA_FILE"):
        reached(parse_url(secured.url()))
    monkeypatch.setenv("REDIS_CA_FILE", str(tmp_path / "gone.pem"))
    with pytest.raises(UsageError, match="REDIS_CA_FILE"):
        parse_url(secured.url())


def test_a_name_the_certificate_does_not_hold_is_not_believed(secured: Secured, trusted: Redis):
    with pytest.raises(ServiceError, match="certificate"):
        reached(parse_url(secured.url().replace("127.0.0.1", "localhost")))


def test_a_server_that_wants_a_certificate_gets_one(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with running_redis(tmp_path) as own, tunnel(own.port, certificates, asks_client=True) as port:
        _trust(monkeypatch, certificates)
        assert reached(parse_url(f"rediss://127.0.0.1:{port}")).cert_file
        monkeypatch.delenv("REDIS_CERT_FILE")
        with pytest.raises(ServiceError):
            reached(parse_url(f"rediss://127.0.0.1:{port}"))


def test_tls_to_a_plain_server_is_told_so(certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REDIS_CA_FILE", str(certificates.authority))
    with running_redis(tmp_path) as own, pytest.raises(ServiceError, match="redis://"):
        reached(parse_url(f"rediss://127.0.0.1:{own.port}"))


def test_no_process_shows_the_password(secured: Secured, trusted: Redis, tmp_path: Path):
    """What a user sees of a command that fails and of one that succeeds; its arguments never hold it either."""
    code = "import sys; from pathlib import Path; from feature_repo.redis_server import running_redis\n"
    code += "with running_redis(Path(sys.argv[1])) as redis: print(redis, redis.shown, redis.connection_string)"
    for url in (secured.url(), secured.url(user="nobody")):
        told = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env={**os.environ, "REDIS_URL": url},
            capture_output=True,
            text=True,
            check=False,
        )
        assert PASSWORD not in told.stdout + told.stderr
        assert QUOTED not in told.stdout + told.stderr
        assert "127.0.0.1" in told.stdout + told.stderr


@pytest.mark.parametrize("password", ["1e5", "true", "null", "%5B%5D", "1.50", 'qu"ote', "back%5Cslash", "dollar$"])
def test_passwords_feast_would_misread_are_refused(password: str):
    with pytest.raises(UsageError, match="Feast"):
        parse_url(f"redis://:{password}@host")


def test_brackets_in_a_password_are_to_be_quoted():
    with pytest.raises(UsageError, match="%5B") as raised:
        parse_url("redis://:secret[1]@host")
    assert "secret" not in str(raised.value)


@pytest.mark.feast
@pytest.mark.parametrize("password", ["12345", "007", "1e5x", "truely", "%", "=", "ü"])
def test_passwords_feast_reads_as_they_are_are_taken(password: str):
    require_feast()
    from feast.infra.online_stores.redis import RedisOnlineStore

    quoted = password.replace("%", "%25")
    address = parse_url(f"redis://:{quoted}@host").connection_string.replace("${MSD_REDIS_PASSWORD}", password)
    assert str(RedisOnlineStore._parse_connection_string(address)[1]["password"]) == password
