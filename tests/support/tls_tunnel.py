"""Redis behind TLS, in the two ways it is deployed: its own listener, or a tunnel that ends TLS in front of it."""

import contextlib
import datetime
import ipaddress
import select
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Certificates:
    """PEM files: an authority, and keys with certificates it signed for the server and for a client."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def make_certificates(folder: Path) -> Certificates:
    """A fresh authority and what it signs, for 127.0.0.1."""
    folder.mkdir(parents=True, exist_ok=True)
    root_key, root_name = ec.generate_private_key(ec.SECP256R1()), _name("authority")
    root = _builder(root_name, root_name, root_key).add_extension(x509.BasicConstraints(True, None), critical=True)
    root = root.add_extension(x509.SubjectKeyIdentifier.from_public_key(root_key.public_key()), critical=False)
    usage = dict.fromkeys(
        [
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ],
        False,
    )
    signs = x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **usage)
    (folder / "authority.pem").write_bytes(
        _pem(root.add_extension(signs, critical=True).sign(root_key, hashes.SHA256()))
    )
    for who in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        made = _builder(_name(who), root_name, key).add_extension(address, critical=False)
        issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
        made = made.add_extension(issued_by, critical=False)
        (folder / f"{who}.pem").write_bytes(_pem(made.sign(root_key, hashes.SHA256())))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / f"{who}.key").write_bytes(private)
    return Certificates(
        *(folder / name for name in ("authority.pem", "server.pem", "server.key", "client.pem", "client.key"))
    )


@contextlib.contextmanager
def tunnel(port: int, certificates: Certificates, *, asks_client: bool) -> Iterator[int]:
    """A port on loopback that ends TLS and hands on what it carries to another port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.server_key)
    if asks_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates.authority)
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def carry(outer: socket.socket) -> None:
        with contextlib.suppress(OSError), outer, socket.create_connection(("127.0.0.1", port)) as inner:
            outer.settimeout(5)
            with context.wrap_socket(outer, server_side=True) as secured:
                _carry(secured, inner, ended)

    def accept(listener: socket.socket) -> None:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                threads.append(threading.Thread(target=carry, args=(listener.accept()[0],)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        accepting = threading.Thread(target=accept, args=(listener,))
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            ended.set()
            for thread in [accepting, *threads]:
                thread.join()


@contextlib.contextmanager
def listening_redis(
    binary: Path, folder: Path, certificates: Certificates, *, asks_client: bool
) -> Iterator[int | None]:
    """The TLS port of a redis-server of its own; None where the binary was built without TLS."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = {
        "--port": "0",
        "--tls-port": str(port),
        "--bind": "127.0.0.1",
        "--tls-cert-file": certificates.server,
        "--tls-key-file": certificates.server_key,
        "--tls-ca-cert-file": certificates.authority,
        "--tls-auth-clients": "yes" if asks_client else "no",
        "--save": "",
        "--dir": folder,
    }
    command = [str(binary), *(str(word) for pair in settings.items() for word in pair)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield port if _answers(port, server) else None
    finally:
        server.terminate()
        server.wait(10)


def _answers(port: int, server: "subprocess.Popen[bytes]") -> bool:
    while server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.02)
    return False


def _carry(secured: ssl.SSLSocket, inner: socket.socket, ended: threading.Event) -> None:
    while not ended.is_set():
        ready = [secured] if secured.pending() else select.select([secured, inner], [], [], 0.1)[0]
        for source, target in ((secured, inner), (inner, secured)):
            if source in ready:
                data = source.recv(1 << 16)
                if not data:
                    return
                target.sendall(data)


def _name(who: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number())
    day = datetime.timedelta(days=1)
    return made.not_valid_before(now - day).not_valid_after(now + day)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
