# SPDX-License-Identifier: Apache-2.0
"""What goes wrong between here and Redis: soon reported, with a cure, and without the password."""

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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis_server import PASSWORD, RedisServer, free_port
from redis_stores import CLAIM, IDENTITY, LIVE, new_store, token

from lucidworks_provider.client.auth.protocol import RELEASED, Claim, Snapshot
from lucidworks_provider.client.auth.token import TokenCipher
from lucidworks_provider.errors import ConfigurationError, LucidworksError, TokenStoreError
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


@contextmanager
def refused(error: type[LucidworksError], words: str, *, later: bool = False) -> Iterator[None]:
    """An error with these words and without the password; ``later``: a configuration that may be right soon."""
    with pytest.raises(error) as raised:
        yield
    found = raised.value
    assert words in str(found)
    assert found.retryable is (later or error is TokenStoreError)
    assert found.__suppress_context__ or found.__context__ is None
    assert PASSWORD not in "".join(traceback.format_exception(found))


@each_use
def test_a_server_that_is_gone(server: RedisServer, use: Callable[[RedisTokenStore], object]) -> None:
    store = new_store()
    store.read()
    server.stop()
    started = time.monotonic()
    where = f"Redis at 127.0.0.1:{server.port}/0 (connection 'shared_redis')"
    with refused(TokenStoreError, f"{where} cannot be used: Connection refused."):
        use(store)
    assert time.monotonic() - started < 5
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
        with refused(TokenStoreError, "TimeoutError"):
            USES[number](stores[number])
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
        with refused(TokenStoreError, "cannot be used"):
            new_store().read()
        assert time.monotonic() - started < 10
        for caller in callers:
            caller.close()


NO_DATABASE = "/DB (connection 'shared_redis') has no such database"
NOWHERE: dict[str, tuple[dict[str, Any], type[LucidworksError], str]] = {
    "no such host": ({"host": "redis.invalid"}, TokenStoreError, "Redis at redis.invalid:PORT/0"),
    "a URL as host": (
        *({"host": f"redis://:{PASSWORD}@redis.invalid"}, TokenStoreError),
        "Redis at redis.invalid:PORT/0",
    ),
    "the usual port": ({"host": "127.0.0.254", "port": None}, TokenStoreError, "127.0.0.254:6379/0"),
    "no such user": ({"login": "nobody"}, ConfigurationError, "refuses login or password"),
    "no such database": ({"extra": {"db": 99}}, ConfigurationError, NO_DATABASE.replace("DB", "99")),
    "no number": ({"extra": {"db": "many"}}, ConfigurationError, NO_DATABASE.replace("DB", "many")),
}


@pytest.mark.parametrize("case", NOWHERE)
def test_a_connection_that_leads_nowhere(server: RedisServer, case: str) -> None:
    connection, error, words = NOWHERE[case]
    server.connect(**connection)
    with refused(error, words.replace("PORT", str(server.port))):
        new_store().read()


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
    server: RedisServer, answer: bytes, error: type[LucidworksError]
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
        with refused(error, f"Redis at 127.0.0.1:{other.getsockname()[1]}/0"):
            new_store().read()
        other.shutdown(socket.SHUT_RDWR)


@each_use
@pytest.mark.parametrize("password", ["wrong", None])
def test_a_wrong_password(
    server: RedisServer, use: Callable[[RedisTokenStore], object], password: str | None
) -> None:
    server.connect(password=password)
    with refused(ConfigurationError, "(connection 'shared_redis') refuses login or password."):
        use(new_store())


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
    with refused(ConfigurationError, "does not permit its user all required commands: EVALSHA"):
        use(new_store())


@pytest.mark.parametrize("database", [3, "3"])
def test_a_database_with_a_number(server: RedisServer, database: object) -> None:
    server.connect(extra={"db": database})
    store = new_store()
    store.publish(token(1))
    store.write_claim(Claim("a"))
    assert server.client(db=3).exists(LIVE, CLAIM) == 2
    assert server.client().exists(LIVE, CLAIM) == 0
    server.stop()
    with refused(TokenStoreError, f":{server.port}/3 "):
        store.read()


def test_a_connection_of_a_cluster(server: RedisServer) -> None:
    from airflow.providers.redis.hooks.redis import RedisHook

    if not hasattr(RedisHook(), "cluster"):
        pytest.skip("this version of the hook knows of no clusters")
    server.connect(extra={"cluster": True})
    with refused(ConfigurationError, "of a Redis Cluster"):
        new_store().read()


@pytest.mark.parametrize("use", USES[1:], ids=["write_claim", "withdraw", "publish"])
def test_a_replica_that_only_reads(server: RedisServer, use: Callable[[RedisTokenStore], object]) -> None:
    store = new_store()
    store.publish(token(0))
    store.write_claim(Claim("a"))
    # Of a primary that does not exist; what it has, it shows.
    server.client().replicaof("127.0.0.1", "1")
    assert store.read() == Snapshot(token(0), Claim("a"))
    with refused(TokenStoreError, "is a read-only replica"):
        use(store)


@pytest.mark.parametrize("use", [USES[1], USES[3]], ids=["write_claim", "publish"])
def test_a_server_without_memory(server: RedisServer, use: Callable[[RedisTokenStore], object]) -> None:
    store = new_store()
    store.read()
    server.client().config_set("maxmemory", "1")
    with refused(TokenStoreError, "no memory left"):
        use(store)
    store.read()


def test_an_encrypted_connection(idle_server: RedisServer, tmp_path: Path) -> None:
    import trustme

    authority, key, ca, other = trustme.CA(), *(tmp_path / f"{name}.pem" for name in ("key", "ca", "other"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    trustme.CA().cert_pem.write_to_path(other)
    idle_server.start(password=PASSWORD)
    files = ("tls-key-file", key, "tls-cert-file", key, "tls-ca-cert-file", ca)
    idle_server.client().config_set("tls-auth-clients", "no", *map(str, files))
    port = free_port()
    idle_server.client().config_set("tls-port", port)

    def store(trusted: Path) -> RedisTokenStore:
        idle_server.connect(port=port, extra={"ssl": True, "ssl_ca_certs": str(trusted)})
        return new_store()

    store(ca).publish(token(1))
    assert idle_server.client().exists(LIVE)
    for path, words in ((other, "certificate verify failed"), (tmp_path / "no.pem", "No such file")):
        with refused(TokenStoreError, words):
            store(path).read()


def test_a_redis_connection_that_does_not_exist() -> None:
    pytest.importorskip("airflow.providers.redis")
    store = RedisTokenStore("search", "nowhere", IDENTITY, TokenCipher(IDENTITY, "secret"))
    words = "Connection 'nowhere', which redis_conn_id of connection 'search' names, does not"
    with refused(ConfigurationError, words, later=True):
        store.read()


@each_use
@pytest.mark.parametrize("module", ["airflow.providers.redis.hooks.redis", "redis.retry"])
def test_a_missing_package(
    use: Callable[[RedisTokenStore], object], module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with refused(ConfigurationError, "pip install 'airflow-provider-lucidworks[redis]'"):
        use(new_store())


def test_making_a_store_costs_an_event_loop_nothing() -> None:
    """Neither Airflow nor Redis is imported, and no request is sent."""
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
