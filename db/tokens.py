"""Bearer tokens: `eg_<owner>_<secret>`.

The owner stands in the token, so that finding its row is one indexed lookup under row-level
security. The secret is 32 random bytes: strong enough that its plain SHA-256 can be stored.
"""

from __future__ import annotations

import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

SECRET_BYTES = 32
SECRET_CHARS = 43
TOKEN = re.compile(rf"eg_([0-9a-f]{{32}})_([A-Za-z0-9_-]{{{SECRET_CHARS}}})")


class Minted(NamedTuple):
    """A new token: the text for its holder, and the hash to store. The text is not kept."""

    token: str
    secret: bytes
    hash: bytes

    def __repr__(self) -> str:
        return "<a new token>"


class Parsed(NamedTuple):
    """What a token says. Nothing is proven until the secret's hash is found."""

    owner_id: UUID
    secret: bytes

    def __repr__(self) -> str:
        return f"<a token of {self.owner_id}>"


def mint(owner_id: UUID, secret: bytes | None = None) -> Minted:
    """Make a token for a person, with a random secret unless one is given."""
    secret = secrets.token_bytes(SECRET_BYTES) if secret is None else secret
    text = urlsafe_b64encode(secret).rstrip(b"=").decode()
    return Minted(f"eg_{owner_id.hex}_{text}", secret, hashed(secret))


def parse(text: str) -> Parsed | None:
    """Read a token; None for anything else."""
    match = TOKEN.fullmatch(text)
    if match is None:
        return None
    return Parsed(UUID(hex=match[1]), urlsafe_b64decode(f"{match[2]}="))


def hashed(secret: bytes) -> bytes:
    """What is stored of a secret."""
    return sha256(secret).digest()
