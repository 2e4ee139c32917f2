"""Every setting of the process, in one place, typed, with its unit in its name.

Read from the environment when the process starts, and nowhere else. README lists them; a test
compares.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from db.retention import Retention
from db.session import SessionOptions
from server.embedding import EmbeddingOptions
from server.gate import GateLimits, Rate, open_store, read_rate
from server.guard import Limits
from server.replies.service import ReplyOptions

DEVELOPING = 50
"""How many times as much is allowed where nobody else is."""

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@*]+")
"""RFC 6454, 6.2, as a browser sends it; `null` and `*` are everybody's."""

Environment = Literal["development", "production"]


class Settings(BaseSettings):
    """What an operator may choose. Names are the environment variables, in lower case."""

    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", frozen=True, env_ignore_empty=True, populate_by_name=True
    )

    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: int = Field(8000, ge=0, le=65_535, description="The port to listen on.")
    listen_fds: int = Field(
        0,
        ge=0,
        description="How many listening sockets a supervisor such as systemd hands over, which"
        " stand for HOST and PORT. Counts only with LISTEN_PID.",
    )
    listen_pid: int | None = Field(
        None, description="The process that LISTEN_FDS is meant for; the supervisor sets it."
    )
    engram_environment: Environment | None = Field(
        None,
        description="`development` or `production`. By default production if DATABASE_URL is set.",
    )
    engram_data_dir: Path = Field(
        Path(".engram"), description="Where the embedded PostgreSQL keeps its data."
    )

    database_url: SecretStr | None = Field(
        None, description="PostgreSQL 18 with pgvector. Without it, one is embedded."
    )
    database_migration_url: SecretStr | None = Field(
        None, description="The URL of the tables' owner, if DATABASE_URL is another role's."
    )
    database_listen_url: SecretStr | None = Field(
        None,
        description="A URL past the pooler, for LISTEN. By default the migration or database URL.",
    )
    database_replica_url: SecretStr | None = Field(
        None,
        description="A streaming standby of the database, which answers queries while it keeps up.",
    )
    database_replica_lag_seconds: float = Field(
        5.0,
        gt=0,
        le=3_600,
        description="How old what the replica answers may be. Who wrote sees that at once.",
    )
    database_poll_seconds: float = Field(
        1.0,
        gt=0,
        description="How often changes are looked for while none can be heard of by LISTEN.",
    )
    database_pooler: Literal["session", "transaction"] = Field(
        "session", description="`transaction` if a pooler in transaction mode is in between."
    )
    database_ca: str | None = Field(
        None,
        description="The certificate authority of the database and its replica, as PEM text.",
    )
    database_pool_size: int = Field(
        10,
        ge=1,
        le=1_000,
        description="Connections of this process to the database, and as many to a replica.",
    )
    database_pool_timeout_seconds: float = Field(
        5.0, gt=0, description="How long a request waits for a free connection."
    )

    statement_timeout_ms: int = Field(10_000, ge=1, description="The longest one statement runs.")
    lock_timeout_ms: int = Field(5_000, ge=1, description="The longest one statement waits.")
    idle_timeout_ms: int = Field(
        30_000, ge=1, description="The longest a transaction may do nothing."
    )

    planned_selections: bool = Field(
        True,
        description="Whether selections over tables are planned; false leaves all to graphql-core.",
    )
    body_limit_bytes: int = Field(8_388_608, ge=1_024, description="The largest request body.")
    body_timeout_seconds: float = Field(
        15.0, gt=0, description="The longest the headers of a request may take, and its body."
    )
    max_batch: int = Field(
        0, ge=0, le=8, description="The most requests sent together as a batch; 0 refuses batches."
    )
    max_values: int = Field(
        100_000, ge=1, description="The most values in the JSON of a body, all levels together."
    )
    max_depth: int = Field(12, ge=1, description="The most levels of nested fields.")
    max_fields: int = Field(1_000, ge=1, description="The most fields of a document, expanded.")
    max_aliases: int = Field(30, ge=0, description="The most aliases of an operation.")
    max_repeats: int = Field(32, ge=1, description="The most selections of one response key.")
    max_root_fields: int = Field(20, ge=1, description="The most root fields of an operation.")
    max_directives: int = Field(50, ge=0, description="The most directives of a document.")
    max_tokens: int = Field(1_000, ge=1, description="The most lexical tokens of a document.")
    max_cost: int = Field(10_000, ge=1, description="The most objects an operation may touch.")

    trusted_documents: Path | None = Field(
        None,
        description="A JSON file of documents that may be asked for by their id, and over GET.",
    )
    trusted_documents_only: bool = Field(
        False, description="Whether all other documents are refused."
    )

    llm_base_url: str | None = Field(
        None,
        description="Where an OpenAI-compatible API of models is. OpenAI's, if only a key is set.",
    )
    llm_api_key: SecretStr | None = Field(None, description="The key of that API.")
    llm_model: str | None = Field(
        None, description="The model that answers unless another is named."
    )
    llm_models: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Other models that may be named, commas between; all, if there are none."
    )
    llm_context_tokens: int = Field(
        32_000, ge=100, description="About how much of a conversation a model is sent."
    )
    llm_silence_seconds: float = Field(
        60.0, gt=0, description="How long a model may say nothing before it is given up."
    )
    llm_longest_seconds: float = Field(900.0, gt=0, description="How long one reply may take.")
    llm_lease_seconds: float = Field(
        20.0,
        gt=0,
        description="After how much silence a process is taken for dead with its replies.",
    )
    embedding_model: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="The model that embeds texts. Without it, searches are by words alone.",
    )
    embedding_base_url: str | None = Field(
        None,
        description="Where an OpenAI-compatible API of embeddings is. By default LLM_BASE_URL.",
    )
    embedding_api_key: SecretStr | None = Field(
        None, description="The key of that API. By default LLM_API_KEY, if no other API is named."
    )
    embedding_dimensions: int | None = Field(
        None,
        ge=1,
        le=4_000,
        description="What to ask the model for, if it can be asked. By default what it gives.",
    )
    embedding_batch: int = Field(
        64, ge=1, le=2_048, description="How many texts are embedded together."
    )
    embedding_timeout_seconds: float = Field(
        30.0, gt=0, description="How long the provider may take for a batch; for a query a sixth."
    )

    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins of browsers that may ask, besides the own one; commas between.",
    )
    trusted_proxies: str = Field(
        "127.0.0.1",
        description="Proxies whose X-Forwarded-For is believed: addresses or networks, with commas"
        " between. `*` is one proxy, whatever its address.",
    )
    introspection: bool | None = Field(
        None, description="Whether the schema may be asked for. By default in development only."
    )
    session_lifetime_days: int = Field(90, ge=1, description="How long a log-in lasts.")
    session_retention_days: int = Field(
        30, ge=1, description="How long a log-in is still listed after it has ended."
    )
    audit_retention_days: int = Field(
        365,
        ge=30,
        description="How long audit events are kept, and the change feed can go back.",
    )
    idempotency_retention_hours: int = Field(
        24, ge=24, description="How long a write that is sent again is answered from the store."
    )
    export_retention_days: int = Field(
        7, ge=1, description="How long a finished export can be downloaded."
    )
    background_work: bool = Field(
        True,
        description="Whether this process writes exports and removes what is no longer kept.",
    )
    sweep_interval_seconds: int = Field(
        21_600, ge=1, description="How often what is no longer kept is removed."
    )
    password_concurrency: int = Field(
        2, ge=1, le=64, description="Passwords hashed at once; each takes a core and 64 MiB."
    )
    rate_limit_storage_url: SecretStr | None = Field(
        None,
        description="The Redis in which all processes count together. By default each has its own.",
    )
    rate_limit_cost: str | None = Field(
        None,
        description=(
            "The points that a person may spend, in the notation of the package limits, or `off`."
            " By default `200000/minute`, and in development 50 times as many, as of all limits."
        ),
    )
    rate_limit_address_cost: str | None = Field(
        None,
        description=(
            "The same for all of an address who are not logged in. By default `20000/minute`."
        ),
    )
    rate_limit_sign_ups: str | None = Field(
        None,
        description="The sign-ups of an address, and the names and addresses that its people ask"
        " for later. By default `20/hour`.",
    )
    rate_limit_log_ins: str | None = Field(
        None, description="The log-ins of an address, right or wrong. By default `60/minute`."
    )
    wrong_passwords: int = Field(
        5,
        ge=1,
        description="Wrong passwords for an account from one address, before the next has to wait.",
    )
    wrong_passwords_address: int = Field(
        50, ge=1, description="The same from one address, for all accounts together."
    )
    wrong_passwords_account: int = Field(
        100, ge=1, description="The same for one account, from all addresses new to it."
    )
    wrong_passwords_wait_seconds: int = Field(
        900, ge=1, le=3_600, description="The longest that the next password may have to wait."
    )
    shutdown_grace_seconds: int = Field(
        10, ge=0, description="How long running requests may take to end."
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least severe events to log."
    )
    log_format: Literal["json", "console"] | None = Field(
        None, description="`json` or `console`. By default console in development."
    )

    metrics_token: SecretStr | None = Field(
        None,
        min_length=16,
        description="Who brings it as a bearer token may read `/metrics`. Without it, nothing is"
        " counted in production, and in development this machine may read.",
    )
    metrics_operations: int = Field(
        100,
        ge=0,
        le=10_000,
        description="How many names of operations `/metrics` tells apart besides trusted ones.",
    )

    slow_operation_ms: int = Field(
        1_000,
        ge=0,
        description="Operations that take longer are logged with their statements and a plan;"
        " 0 logs none.",
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        None,
        description="Where traces are sent, by OTLP over HTTP. It needs the extra `tracing`.",
    )
    tracing_ratio: float = Field(
        1.0, ge=0, le=1, description="The share of operations traced, unless the caller decides."
    )

    @field_validator("llm_models", mode="before")
    @classmethod
    def _split_models(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(model.strip() for model in value.split(",") if model.strip())
        return value

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(
                origin.strip().rstrip("/") for origin in value.split(",") if origin.strip()
            )
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if ORIGIN.fullmatch(origin) is None:
                raise PydanticCustomError(
                    "no_origin", "Each must be named, such as https://app.example:8443"
                )
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        if value.strip() != "*":
            for proxy in value.split(","):
                ip_network(proxy.strip())
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("database_replica_url")
    @classmethod
    def _has_a_primary(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None and info.data.get("database_url") is None:
            raise PydanticCustomError("no_primary", "It needs DATABASE_URL to be set")
        return value

    @field_validator("trusted_documents_only")
    @classmethod
    def _names_documents(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("trusted_documents") is None:
            raise PydanticCustomError("no_manifest", "It needs TRUSTED_DOCUMENTS to be set")
        return value

    @field_validator("rate_limit_storage_url")
    @classmethod
    def _opens(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            open_store(value)
        return value

    @field_validator("rate_limit_cost", "rate_limit_address_cost")
    @classmethod
    def _is_enough(cls, value: str | None, info: ValidationInfo) -> str | None:
        rate = read_rate(value) if value is not None else None
        if rate is not None and rate.amount < info.data.get("max_cost", 0):
            raise PydanticCustomError("too_low", "It must allow an operation of MAX_COST points")
        return value

    @field_validator("rate_limit_sign_ups", "rate_limit_log_ins")
    @classmethod
    def _is_rate(cls, value: str | None) -> str | None:
        if value is not None:
            read_rate(value)
        return value

    @property
    def development(self) -> bool:
        """Whether conveniences are on that a public server must not have."""
        if self.engram_environment is not None:
            return self.engram_environment == "development"
        return self.database_url is None

    @property
    def allows_introspection(self) -> bool:
        """Whether the schema may be asked for."""
        return self.development if self.introspection is None else self.introspection

    @property
    def metrics(self) -> bool:
        """Whether there is anybody who may read metrics."""
        return self.development or self.metrics_token is not None

    @property
    def json_logs(self) -> bool:
        """Whether the log is for machines."""
        if self.log_format is not None:
            return self.log_format == "json"
        return not self.development

    @property
    def sockets_handed_over(self) -> int:
        """How many listening sockets this process was started with: sd_listen_fds(3)."""
        return self.listen_fds if self.listen_pid == os.getpid() else 0

    @property
    def session_options(self) -> SessionOptions:
        """The limits of every transaction."""
        return SessionOptions(
            statement_timeout_ms=self.statement_timeout_ms,
            lock_timeout_ms=self.lock_timeout_ms,
            idle_timeout_ms=self.idle_timeout_ms,
        )

    @property
    def replies(self) -> ReplyOptions:
        """The provider of models, and the bounds of a reply."""
        key = self.llm_api_key
        return ReplyOptions(
            base_url=self.llm_base_url,
            api_key=None if key is None else key.get_secret_value(),
            models=tuple(dict.fromkeys(filter(None, (self.llm_model, *self.llm_models)))),
            context_tokens=self.llm_context_tokens,
            silence_seconds=self.llm_silence_seconds,
            longest_seconds=self.llm_longest_seconds,
            lease_seconds=self.llm_lease_seconds,
            connections=max(1, self.database_pool_size // 2),
        )

    @property
    def retention(self) -> Retention:
        """What is kept for how long."""
        return Retention(
            logins=timedelta(days=self.session_retention_days),
            events=timedelta(days=self.audit_retention_days),
        )

    @property
    def embedding_options(self) -> EmbeddingOptions:
        """Which embeddings there are, and from where: where models answer, unless it is said."""
        base_url, key = self.embedding_base_url, self.embedding_api_key
        if base_url is None and key is None:
            base_url, key = self.llm_base_url, self.llm_api_key
        return EmbeddingOptions(
            base_url=base_url,
            api_key=None if key is None else key.get_secret_value(),
            model=self.embedding_model,
            dimensions=self.embedding_dimensions,
            batch=self.embedding_batch,
            timeout_seconds=self.embedding_timeout_seconds,
            query_timeout_seconds=self.embedding_timeout_seconds / 6,
            lease_seconds=self.embedding_timeout_seconds * 3,
        )

    @property
    def gate(self) -> GateLimits:
        """Who gets in, and how often."""

        def rate(text: str | None, default: str) -> Rate | None:
            read = read_rate(default if text is None else text)
            if read is None or text is not None or not self.development:
                return read
            return Rate(read.amount * DEVELOPING, read.seconds)

        return GateLimits(
            cost=rate(self.rate_limit_cost, "200000/minute"),
            address_cost=rate(self.rate_limit_address_cost, "20000/minute"),
            sign_ups=rate(self.rate_limit_sign_ups, "20/hour"),
            log_ins=rate(self.rate_limit_log_ins, "60/minute"),
            failures=self.wrong_passwords,
            address_failures=self.wrong_passwords_address,
            account_failures=self.wrong_passwords_account,
            longest_wait=self.wrong_passwords_wait_seconds,
        )

    @property
    def limits(self) -> Limits:
        """The bounds of one document."""
        return Limits(
            tokens=self.max_tokens,
            depth=self.max_depth,
            fields=self.max_fields,
            aliases=self.max_aliases,
            repeats=self.max_repeats,
            root_fields=self.max_root_fields,
            directives=self.max_directives,
            cost=self.max_cost,
        )
