# SPDX-License-Identifier: Apache-2.0
"""What goes wrong between here and Redis: soon told, with a cure, and without the password."""

import contextlib
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from redis_server import PASSWORD, RedisServer
from redis_stores import CLAIM, IDENTITY, LIVE, new_store, token

from lucidworks_provider.client.auth.protocol import RELEASED, Claim, Snapshot
from lucidworks_provider.client.auth.token import TokenCipher
from lucidworks_provider.errors import ConfigurationError, TokenStoreError
from lucidworks_provider.hooks.stores.redis import RedisTokenStore

USES: list[Callable[[RedisTokenStore], object]] = [
    lambda store: store.read(),
    lambda store: store.write_claim(Claim("a")),
    lambda store: store.release_claim(Claim("a")),
    lambda store: store.publish(token(1)),
]
each_use = pytest.mark.parametrize("use", USES, ids=["read", "write_claim", "withdraw", "publish"])


@pytest.fixture(autouse=True)
def nothing_leaks(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The password is in no log line, whatever a test does."""
    caplog.set_level(logging.DEBUG)
    yield
    assert PASSWORD not in caplog.text


def said(raised: pytest.ExceptionInfo[BaseException]) -> str:
    """What the user sees, which never holds the password."""
    error = raised.value
    assert error.__suppress_context__ or error.__context__ is None
    assert PASSWORD not in "".join(traceback.format_exception(error))
    return str(error)


@each_use
def test_a_server_that_is_gone(server: RedisServer, use: Callable[[RedisTokenStore], object]) -> None:
    store = new_store()
    store.read()
    server.stop()
    started = time.monotonic()
    with pytest.raises(TokenStoreError) as raised:
        use(store)
    assert time.monotonic() - started < 5
    assert raised.value.retryable
    assert said(raised) == (
        f"Redis at 127.0.0.1:{server.port}/0 (connection 'shared_redis') cannot be used: Connection refused."
    )
    server.start(password=PASSWORD, port=server.port)
    use(store)


@pytest.mark.parametrize("connected", [True, False])
def test_a_server_that_hangs(server: RedisServer, *, connected: bool) -> None:
    stores = [new_store() for _ in USES]
    if connected:
        for store in stores:
            store.read()
    server.signal(signal.SIGSTOP)

    def hang(number: int) -> float:
        started = time.monotonic()
        with pytest.raises(TokenStoreError) as raised:
            USES[number](stores[number])
        assert "TimeoutError" in said(raised)
        return time.monotonic() - started

    with ThreadPoolExecutor(len(USES)) as pool:
        assert max(pool.map(hang, range(len(USES)))) < 5.5
    server.signal(signal.SIGCONT)
    for number, store in enumerate(stores):
        USES[number](store)


def test_a_host_that_never_responds(server: RedisServer) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        callers = [socket.socket() for _ in range(4)]
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(deaf.getsockname())
        time.sleep(0.1)
        server.connect(port=deaf.getsockname()[1])
        started = time.monotonic()
        with pytest.raises(TokenStoreError) as raised:
            new_store().read()
        assert time.monotonic() - started < 10
        for caller in callers:
            caller.close()
    assert "cannot be used" in said(raised)


@pytest.mark.parametrize(
    ("connection", "error", "words"),
    [
        ({"host": "redis.invalid"}, TokenStoreError, "Redis at redis.invalid:PORT/0"),
        ({"host": f"redis://:{PASSWORD}@redis.invalid"}, TokenStoreError, "Redis at redis.invalid:PORT/0"),
        ({"host": "127.0.0.254", "port": None}, TokenStoreError, "Redis at 127.0.0.254:6379/0"),
        ({"login": "nobody"}, ConfigurationError, "refuses login or password"),
        *(
            (
                {"extra": {"db": db}},
                ConfigurationError,
                f"/{db} (connection 'shared_redis') has no such database",
            )
            for db in (99, "many")
        ),
    ],
    ids=["no such host", "a URL as host", "the usual port", "no such user", "no such database", "no number"],
)
def test_a_connection_that_leads_nowhere(
    server: RedisServer, connection: dict[str, Any], error: type[Exception], words: str
) -> None:
    server.connect(**connection)
    with pytest.raises(error) as raised:
        new_store().read()
    assert words.replace("PORT", str(server.port)) in said(raised)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", TokenStoreError),
        (b"-MOVED 7000 127.0.0.1:7000\r\n", ConfigurationError),
        (b"-LOADING Redis is loading the dataset in memory\r\n", TokenStoreError),
    ],
    ids=["no redis", "a cluster's node", "loading"],
)
def test_a_port_where_something_else_responds(
    server: RedisServer, answer: bytes, error: type[Exception]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        server.connect(port=other.getsockname()[1])

        def converse() -> None:
            with contextlib.suppress(OSError):
                while True:
                    caller, _address = other.accept()
                    with caller:
                        while caller.recv(1000):
                            caller.sendall(answer)

        threading.Thread(target=converse, daemon=True).start()
        with pytest.raises(error) as raised:
            new_store().read()
        other.shutdown(socket.SHUT_RDWR)
    said(raised)


@each_use
@pytest.mark.parametrize("password", ["wrong", None])
def test_a_wrong_password(
    server: RedisServer, use: Callable[[RedisTokenStore], object], password: str | None
) -> None:
    server.connect(password=password)
    with pytest.raises(ConfigurationError) as raised:
        use(new_store())
    assert not raised.value.retryable
    assert "(connection 'shared_redis') refuses login or password." in said(raised)
    if password:
        assert password not in str(raised.value)


def test_a_corrected_connection_is_taken_up(server: RedisServer) -> None:
    store = new_store()
    server.connect(password="wrong")
    with pytest.raises(ConfigurationError):
        store.read()
    server.connect()
    assert store.read() == Snapshot(None, RELEASED)


def test_a_user_with_a_name_and_no_more_rights_than_needed(server: RedisServer) -> None:
    commands = ("evalsha", "script|load", "get", "set", "del", "type", "pttl")
    server.client().acl_setuser(
        "airflow",
        enabled=True,
        passwords=["+another"],
        keys=["lucidworks:*"],
        commands=["+@connection", *(f"+{command}" for command in commands)],
    )
    server.connect(login="airflow", password="another")
    store = new_store()
    for use in USES:
        use(store)
    assert store.read() == Snapshot(token(1), RELEASED)


@each_use
@pytest.mark.parametrize(
    ("keys", "commands"),
    [
        (["other:*"], ["+@all"]),
        (["lucidworks:*"], ["+@all", "-get", "-type"]),
        (["lucidworks:*"], ["+@connection"]),
    ],
)
def test_a_user_with_too_few_rights(
    server: RedisServer, use: Callable[[RedisTokenStore], object], keys: list[str], commands: list[str]
) -> None:
    server.client().acl_setuser("airflow", enabled=True, passwords=["+another"], keys=keys, commands=commands)
    server.connect(login="airflow", password="another")
    with pytest.raises(ConfigurationError) as raised:
        use(new_store())
    assert "does not permit its user all required commands" in said(raised)
    assert "EVALSHA" in said(raised)


@pytest.mark.parametrize("database", [3, "3"])
def test_a_database_with_a_number(server: RedisServer, database: object) -> None:
    server.connect(extra={"db": database})
    store = new_store()
    store.publish(token(1))
    store.write_claim(Claim("a"))
    assert server.client(db=3).exists(LIVE, CLAIM) == 2
    assert server.client().exists(LIVE, CLAIM) == 0
    server.stop()
    with pytest.raises(TokenStoreError) as raised:
        store.read()
    assert f":{server.port}/3 " in said(raised)


def test_a_connection_of_a_cluster(server: RedisServer) -> None:
    from airflow.providers.redis.hooks.redis import RedisHook

    if not hasattr(RedisHook(), "cluster"):
        pytest.skip("this version of the hook knows of no clusters")
    server.connect(extra={"cluster": True})
    with pytest.raises(ConfigurationError) as raised:
        new_store().read()
    assert "of a Redis Cluster" in said(raised)


@pytest.mark.parametrize("use", USES[1:], ids=["write_claim", "withdraw", "publish"])
def test_a_replica_that_only_reads(server: RedisServer, use: Callable[[RedisTokenStore], object]) -> None:
    store = new_store()
    store.publish(token(0))
    store.write_claim(Claim("a"))
    # Of a primary that does not exist; what it has, it shows.
    server.client().replicaof("127.0.0.1", "1")
    assert store.read() == Snapshot(token(0), Claim("a"))
    with pytest.raises(TokenStoreError) as raised:
        use(store)
    assert "is a read-only replica" in said(raised)


@pytest.mark.parametrize("use", [USES[1], USES[3]], ids=["write_claim", "publish"])
def test_a_server_without_memory(server: RedisServer, use: Callable[[RedisTokenStore], object]) -> None:
    store = new_store()
    store.read()
    server.client().config_set("maxmemory", "1")
    with pytest.raises(TokenStoreError) as raised:
        use(store)
    assert "no memory left" in said(raised)
    store.read()


def test_an_encrypted_connection(idle_server: RedisServer, tmp_path: Path) -> None:
    import trustme

    authority, other = trustme.CA(), trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    other.cert_pem.write_to_path(str(tmp_path / "other.pem"))
    idle_server.start(password=PASSWORD)
    files = {
        name: str(tmp_path / f"{part}.pem")
        for name, part in {"tls-key-file": "key", "tls-cert-file": "cert", "tls-ca-cert-file": "ca"}.items()
    }
    idle_server.client().config_set("tls-auth-clients", "no", *[x for pair in files.items() for x in pair])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    idle_server.client().config_set("tls-port", port)
    extra = {"ssl": True, "ssl_ca_certs": str(tmp_path / "ca.pem")}
    idle_server.connect(port=port, extra=extra)
    new_store().publish(token(1))
    assert idle_server.client().exists(LIVE)
    idle_server.connect(port=port, extra={**extra, "ssl_ca_certs": str(tmp_path / "other.pem")})
    with pytest.raises(TokenStoreError) as raised:
        new_store().read()
    assert "certificate verify failed" in said(raised)
    idle_server.connect(port=port, extra={**extra, "ssl_ca_certs": "/nowhere.pem"})
    with pytest.raises(TokenStoreError) as raised:
        new_store().read()
    assert "No such file" in said(raised)


def test_a_redis_connection_that_does_not_exist() -> None:
    pytest.importorskip("airflow.providers.redis")
    store = RedisTokenStore("search", "nowhere", IDENTITY, TokenCipher(IDENTITY, "secret"))
    with pytest.raises(ConfigurationError) as raised:
        store.read()
    assert "Connection 'nowhere', which redis_conn_id of connection 'search' names, does not" in said(raised)


@each_use
@pytest.mark.parametrize("module", ["airflow.providers.redis.hooks.redis", "redis.retry"])
def test_a_missing_package(
    use: Callable[[RedisTokenStore], object], module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError) as raised:
        use(new_store())
    assert not raised.value.retryable
    assert "pip install 'airflow-provider-lucidworks[redis]'" in said(raised)


def test_making_a_store_costs_an_event_loop_nothing() -> None:
    """Neither Airflow nor Redis is imported, and nobody is asked for anything."""
    script = """
import sys
from lucidworks_provider.hooks.stores.redis import RedisTokenStore
from lucidworks_provider.client.auth.token import TokenCipher
from lucidworks_provider.client.auth.token import TokenIdentity
identity = TokenIdentity("a", "b", "c", "d")
RedisTokenStore("search", "nowhere", identity, TokenCipher(identity, "secret"))
print(sorted({name.partition(".")[0] for name in sys.modules} & {"airflow", "redis", "cryptography"}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_process_that_is_forked_while_a_thread_connects(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool of redis-py holds a lock then, which nothing releases in the child."""
    store, entered, leave = new_store(), threading.Event(), threading.Event()
    make = redis.ConnectionPool.make_connection

    def late(pool: redis.ConnectionPool) -> object:
        entered.set()
        leave.wait(30)
        return make(pool)

    monkeypatch.setattr(redis.ConnectionPool, "make_connection", late)
    connecting = threading.Thread(target=store.read)
    connecting.start()
    assert entered.wait(10)
    if (child := os.fork()) == 0:
        redis.ConnectionPool.make_connection = make  # type: ignore[method-assign]
        signal.alarm(10)
        store.read()
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    leave.set()
    connecting.join()
