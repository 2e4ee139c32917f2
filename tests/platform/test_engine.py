"""Every spelling of a database URL works, or fails with one line that holds no secret."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from db.engine import DatabaseUrlError, create_engine, read_url


@pytest.mark.parametrize(
    "spelling",
    [
        "postgres://me:pa%20ss@host:5433/base",
        "postgresql://me:pa%20ss@host:5433/base",
        "postgresql+asyncpg://me:pa%20ss@host:5433/base",
        "POSTGRESQL://me:pa%20ss@host:5433/base",
        "  postgresql://me:pa%20ss@host:5433/base\n",
        "postgresql:///base?host=host&port=5433&user=me&password=pa%20ss",
        "postgresql://me@host:5433/?dbname=base&password=pa+ss",
    ],
)
def test_spellings_of_an_address(spelling: str) -> None:
    url = read_url(spelling).url
    assert (url.drivername, url.username, url.password) == ("postgresql+asyncpg", "me", "pa ss")
    assert (url.host, url.port, url.database) == ("host", 5433, "base")


def test_addresses_that_are_easily_misread() -> None:
    url = read_url("postgresql://me:p@ss@[::1]:5433/base").url
    assert (url.password, url.host, url.port) == ("p@ss", "::1", 5433)
    url = read_url("postgresql://me@/base?host=/run/a%20b").url
    assert (url.host, dict(url.query)) == (None, {"host": "/run/a b"})
    url = read_url("postgresql://me@%2Frun%2Fpg/base").url
    assert dict(url.query) == {"host": "/run/pg"}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {}),
        ("sslmode=disable", {"ssl": "disable"}),
        ("sslmode=prefer", {"ssl": "prefer"}),
        ("sslmode=require", {"ssl": "require"}),
        ("ssl=true", {"ssl": "require"}),
        ("sslmode=require&sslnegotiation=direct", {"ssl": "require", "direct_tls": True}),
        ("application_name=api", {"server_settings": {"application_name": "api"}}),
        ("connect_timeout=7", {"timeout": 7}),
        ("connect_timeout=0", {"timeout": None}),
        ("channel_binding=prefer&gssencmode=disable&keepalives=1", {}),
        ("target_session_attrs=read-write", {"target_session_attrs": "read-write"}),
        (
            "options=-c%20search_path%3Da,b%20-cwork_mem=4MB%20--lock-timeout=5s",
            {"server_settings": {"search_path": "a,b", "work_mem": "4MB", "lock_timeout": "5s"}},
        ),
    ],
)
def test_words_of_the_query(query: str, expected: dict[str, Any]) -> None:
    assert read_url(f"postgresql://me@host/base?{query}").connect_args == expected


def test_only_verify_modes_verify(tmp_path: Path) -> None:
    def context(query: str) -> ssl.SSLContext:
        made = read_url(f"postgresql://me@host/base?{query}").connect_args["ssl"]
        assert isinstance(made, ssl.SSLContext)
        return made

    authority = Path(__file__).with_name("authority.pem")
    full = context(f"sslmode=verify-full&sslrootcert={authority}")
    assert (full.verify_mode, full.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(full.get_ca_certs()) == 1
    for query in ("sslmode=verify-ca", "sslmode=require", "x"):
        made = context(f"{query.replace('x', '')}&sslrootcert={authority}".lstrip("&"))
        assert (made.verify_mode, made.check_hostname) == (ssl.CERT_REQUIRED, False)
    assert context("sslmode=require&sslrootcert=system").check_hostname
    url = "postgresql://me@host/base?sslmode=verify-full"
    from_variable = read_url(url, authority=authority.read_text()).connect_args["ssl"]
    assert len(from_variable.get_ca_certs()) == 1


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "must look like"),
        ("host=localhost dbname=base", "must look like"),
        ("mysql://me:hunter2@host/base", "not with mysql://"),
        ("postgresql+psycopg2://me:hunter2@host/base", "not with postgresql+psycopg2://"),
        ("postgresql://me:hunter2@host", "names no database"),
        ("postgresql://me:hunter2@/base", "names no host"),
        ("postgresql://me:hunter2@host:port/base", "cannot be read"),
        ("postgresql://me:hunter2@host:99999/base", "cannot be read"),
        ("postgresql://me:hunter2@[::1/base", "cannot be read"),
        ("postgresql://me:hunter2@a,b/base", "several hosts"),
        ("postgresql://me:hunter2@host/base?host=a,b", "several hosts"),
        ("postgresql://me:hunter2@host/base?sslmode=full", "unknown sslmode"),
        ("postgresql://me:hunter2@host/base?sslrootcert=/none.pem", "does not exist"),
        (f"postgresql://me:hunter2@host/base?sslrootcert={__file__}", "cannot be used"),
        ("postgresql://me:hunter2@host/base?connect_timeout=soon", "whole number"),
        ("postgresql://me:hunter2@host/base?channel_binding=require", "verify-full"),
        ("postgresql://me:hunter2@host/base?options=-x", "-c name=value"),
        ("postgresql://me:hunter2@host/base?options=-c%20a", "-c name=value"),
        ("postgresql://me:hunter2@host/base?pgbouncer=true&options=-ca=b", "pooler"),
        ("postgresql://me:hunter2@host/base?schema=public", "not supported: schema"),
        ("postgresql://me:hunter2@host/base?nonsense", "cannot be read"),
    ],
)
def test_what_cannot_be_honoured_is_refused_in_one_line(url: str, reason: str) -> None:
    with pytest.raises(DatabaseUrlError) as caught:
        read_url(url)
    message = str(caught.value)
    assert reason in message
    assert message.startswith("DATABASE_URL ")
    assert "\n" not in message
    assert "hunter2" not in message
    assert caught.value.__cause__ is None


def test_a_pooler_in_transaction_mode_is_a_setting_or_a_word_of_the_url() -> None:
    assert read_url("postgresql://me@host/base").pooler == "session"
    assert read_url("postgresql://me@host/base", pooler="transaction").pooler == "transaction"
    assert read_url("postgresql://me@host/base?pgbouncer=true").pooler == "transaction"


def test_the_password_is_not_shown() -> None:
    engine = create_engine("postgresql://me:hunter2@host/base")
    target = read_url("postgresql://me:hunter2@host/base?sslpassword=hunter2")
    assert "hunter2" not in repr(engine) + str(engine.url) + repr(target)


async def test_an_engine_connects_with_what_the_url_says(database_url: str) -> None:
    query = "&application_name=probe&options=-c%20work_mem%3D5MB&connect_timeout=3&sslmode=prefer"
    engine = create_engine(database_url + query)
    settings = text("SELECT current_setting('application_name'), current_setting('work_mem')")
    async with engine.connect() as connection:
        assert tuple((await connection.execute(settings)).one()) == ("probe", "5MB")
    await engine.dispose()
