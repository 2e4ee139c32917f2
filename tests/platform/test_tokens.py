"""Bearer tokens say whose they are and prove nothing by themselves."""

from __future__ import annotations

from hashlib import sha256
from uuid import uuid4

import pytest

from db.tokens import hashed, mint, parse


def test_a_token_comes_back_as_what_it_was_made_of() -> None:
    owner = uuid4()
    minted = mint(owner)
    assert minted.token.startswith(f"eg_{owner.hex}_")
    assert len(minted.token) == 79
    parsed = parse(minted.token)
    assert parsed is not None
    assert tuple(parsed) == (owner, minted.secret)
    assert minted.hash == hashed(minted.secret) == sha256(minted.secret).digest()
    assert mint(owner).secret != minted.secret


@pytest.mark.parametrize(
    "text",
    ["", "eg_", "Bearer x", f"eg_{'0' * 32}_{'a' * 42}", f"eg_{'0' * 32}_{'a' * 44}",
     f"eg_{'G' * 32}_{'a' * 43}", f"eg_{'0' * 32}_{'é' * 43}", f"eg_{'0' * 32}_{'a' * 43}\n",
     f" eg_{'0' * 32}_{'a' * 43}", f"eg_{'٣' * 32}_{'a' * 43}"],
)  # fmt: skip
def test_anything_else_is_no_token(text: str) -> None:
    assert parse(text) is None
