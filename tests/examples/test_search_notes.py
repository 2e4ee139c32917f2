"""The notes: imported once, found by words, and by meaning where there is a provider."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import FreshDatabase
from tests.examples.running import Account, Example, sign_up
from tests.processes import serving
from tests.search.provider import KEY, embedding

COUNT = "{ documents { totalCount } }"


async def test_notes_are_found_by_words_and_meaning(
    fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    url = await fresh_database()
    async with embedding() as provider:
        settings = {
            "DATABASE_URL": url,
            "EMBEDDING_MODEL": "bag-64",
            "EMBEDDING_BASE_URL": provider.url,
            "EMBEDDING_API_KEY": KEY,
        }
        with serving(tmp_path, **settings) as served:
            account = await sign_up(served)
            async with Example("search_notes.py", account, "gardening", data=tmp_path) as example:
                await example.says(r"^3 hits, searched by hybrid$")
                # The word as it is asked for is in no note.
                await example.says(r"^Garden in spring  \(meaning 1; score 0\.0\d+\)$")
                assert await example.ends() == 0
            async with Example(
                "search_notes.py", account, "tighten the socket", data=tmp_path
            ) as example:
                await example.says(r"^Lamp in the kitchen  \(words 1, meaning \d; score")
                await example.says(r"\[tighten\] \[the\] \[socket\]")
                assert await example.ends() == 0
            # Sent again under the same keys, nothing was imported twice.
            assert (await account.ask(COUNT))["documents"] == {"totalCount": 3}


async def test_without_a_provider_it_says_so(account: Account, tmp_path: Path) -> None:
    note = tmp_path / "Stairs.txt"
    note.write_text("The stairs creak at night.", encoding="utf-8")
    async with Example(
        "search_notes.py", account, "stairs", "--notes", str(note), data=tmp_path
    ) as example:
        await example.says(r"^1 hits, searched by text$")
        await example.says("no provider of embeddings is configured")
        await example.says(r"^Stairs  \(words 1; score")
        await example.says(r"The \[stairs\] creak")
        assert await example.ends() == 0
