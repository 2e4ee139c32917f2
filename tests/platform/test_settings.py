"""Settings: what follows from what, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from server.settings import Settings


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def test_development_is_without_a_database_url(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings()
    assert settings.development
    assert settings.allows_introspection
    assert not settings.json_logs
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hunter2@host/base")
    settings = Settings()
    assert not settings.development
    assert not settings.allows_introspection
    assert settings.json_logs
    assert "hunter2" not in repr(settings)
    monkeypatch.setenv("ENGRAM_ENVIRONMENT", "development")
    monkeypatch.setenv("INTROSPECTION", "off")
    settings = Settings()
    assert settings.development
    assert not settings.allows_introspection


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9000")
    monkeypatch.setenv("HOST", "")
    monkeypatch.setenv("ALLOWED_ORIGINS", "https://a.example/, https://b.example")
    monkeypatch.setenv("LOG_LEVEL", "WARNING")
    monkeypatch.setenv("STATEMENT_TIMEOUT_MS", "1500")
    monkeypatch.setenv("MAX_COST", "77")
    settings = Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 9000)
    assert settings.allowed_origins == ("https://a.example", "https://b.example")
    assert settings.log_level == "warning"
    assert settings.session_options.statement_timeout_ms == 1500
    assert settings.limits.cost == 77


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "70000"), ("DATABASE_POOLER", "both"), ("STATEMENT_TIMEOUT_MS", "0")],
)
def test_nonsense_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [("ALLOWED_ORIGINS", value) for value in ("*", "null", "https://*.example", "app.example")]
    + [("TRUSTED_PROXIES", value) for value in ("10.0.0.0/33", "proxy", "*, 10.0.0.1")],
)
def test_whom_to_trust_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [("ALLOWED_ORIGINS", "http://localhost:3000, capacitor://localhost, https://[::1]:8443")]
    + [("TRUSTED_PROXIES", value) for value in ("*", "127.0.0.1, ::1, 10.0.0.0/8, fd00::/8")],
)
def test_whom_to_trust_has_many_names(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    Settings()


def test_every_setting_is_described_in_a_sentence() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
