"""The provider of embeddings: any endpoint that speaks OpenAI's API for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite, isnan
from typing import Any

import httpx2
import openai
from openai import AsyncOpenAI

OFFICIAL = "https://api.openai.com/v1"
CONNECT_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 3_600.0
MAX_MESSAGE_CHARS = 500
LARGEST = 65_504.0
"""The largest number that a half-precision vector holds."""

_TOO_MUCH = {400, 413, 422}
_ADDRESS = re.compile(r"\bhttps?://\S+|\bsk-[\w*-]+")


class EmbeddingFailed(Exception):
    """The provider did not do it. The message holds neither the key nor the address."""

    def __init__(
        self, message: str, *, rejected: bool = False, retry_after_seconds: float | None = None
    ) -> None:
        """`rejected`: it is these texts that it does not take; the same will fail again."""
        self.rejected = rejected
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class Provider:
    """One endpoint and its key."""

    def __init__(
        self,
        *,
        base_url: str | None,
        api_key: str | None,
        timeout_seconds: float,
        dimensions: int | None = None,
    ) -> None:
        """`dimensions` is asked for, from models that can be asked; None leaves it to the model."""
        address = (base_url or OFFICIAL).rstrip("/")
        self._secrets = [one for one in (api_key, address, httpx2.URL(address).host) if one]
        self._dimensions = dimensions
        self._client = AsyncOpenAI(
            api_key=api_key or "none",
            base_url=address,
            max_retries=0,
            timeout=httpx2.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def embed(
        self, model: str, texts: Sequence[str], dimensions: int | None = None
    ) -> list[list[float]]:
        """The embeddings of texts, in their order, of these dimensions. Raises EmbeddingFailed."""
        body: dict[str, Any] = {"model": model, "input": list(texts), "encoding_format": "float"}
        if self._dimensions is not None:
            body["dimensions"] = dimensions or self._dimensions
        try:
            answer: Any = await self._client.post("/embeddings", body=body, cast_to=object)
        except openai.APITimeoutError:
            raise EmbeddingFailed("The provider did not answer in time.") from None
        except openai.APIConnectionError:
            raise EmbeddingFailed("The provider cannot be reached.") from None
        except openai.APIError as error:
            raise self._failure(error) from None
        except (httpx2.HTTPError, ValueError, RecursionError):
            raise EmbeddingFailed("The provider sent something that is no answer.") from None
        try:
            ordered = sorted(answer["data"], key=lambda one: int(one["index"]))
            vectors = [[float(number) for number in one["embedding"]] for one in ordered]
            numbers = [int(one["index"]) for one in ordered]
        except (TypeError, KeyError, ValueError, OverflowError):
            raise EmbeddingFailed("The provider sent something that is no answer.") from None
        if numbers != list(range(len(texts))):
            raise EmbeddingFailed("The provider did not send one embedding for each text.")
        for vector in vectors:
            if dimensions is not None and len(vector) != dimensions:
                message = f"The provider sent {len(vector)} dimensions, not {dimensions}."
                raise EmbeddingFailed(message)
            if not vector or not all(isfinite(one) and abs(one) <= LARGEST for one in vector):
                raise EmbeddingFailed("The provider sent numbers that are no embedding.")
        return vectors

    def _failure(self, error: openai.APIError) -> EmbeddingFailed:
        status = error.status_code if isinstance(error, openai.APIStatusError) else None
        if status in (401, 403):
            # What it says about a key may quote the key.
            return EmbeddingFailed("The provider refuses the key.")
        if status == 429:
            message = "The provider is asked too often, or the credit is used up."
            return EmbeddingFailed(message, retry_after_seconds=_retry_after(error))
        if status == 404:
            return EmbeddingFailed("The provider does not know the model or the address.")
        if status in _TOO_MUCH:
            said = self._said(error)
            return EmbeddingFailed(f"The provider refuses the text{said}", rejected=True)
        return EmbeddingFailed(
            f"The provider failed{self._said(error)}", retry_after_seconds=_retry_after(error)
        )

    def _said(self, error: openai.APIError) -> str:
        body: Any = error.body
        inner = body.get("error", body) if isinstance(body, dict) else None
        message = inner.get("message") if isinstance(inner, dict) else None
        if not isinstance(message, str) or not message:
            return "."
        message = message.encode("utf-8", "replace").decode().replace("\0", " ")
        for secret in self._secrets:
            message = message.replace(secret, "[hidden]")
        return f": {_ADDRESS.sub('[hidden]', message)[:MAX_MESSAGE_CHARS]}"


def _retry_after(error: openai.APIError) -> float | None:
    """How many seconds the provider asks to be left alone."""
    if not isinstance(error, openai.APIStatusError):
        return None
    given = error.response.headers.get("retry-after", "")
    try:
        seconds = float(given)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return None if isnan(seconds) else min(max(0.0, seconds), LONGEST_PAUSE_SECONDS)
