"""Branches: the messages from a leaf up to the root, however the tree around them looks."""

from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from db.models.conversations import Conversation, Message
from db.scope import current_owner
from schema import ids
from schema.loaders import pages_select
from schema.mirror import MIRRORS, OrderTerm
from schema.pages import encode_cursor, request_page
from tests.conftest import NewPerson
from tests.conversations.talks import active, edit, read, say, start, talk
from tests.mutations import done
from tests.people import Person

LONG = 300


async def test_the_active_branch_runs_from_the_root_to_the_active_leaf(person: Person) -> None:
    conversation, messages = await talk(person, "a", "b", "c")
    found = await read(
        person,
        conversation,
        "activeLeaf { id } root { id } messages { totalCount nodes { id depth parent { id } } }",
    )
    assert found["root"] == {"id": messages[0]}
    assert found["activeLeaf"] == {"id": messages[2]}
    assert found["messages"]["totalCount"] == 3
    assert found["messages"]["nodes"] == [
        {"id": messages[0], "depth": 0, "parent": None},
        {"id": messages[1], "depth": 1, "parent": {"id": messages[0]}},
        {"id": messages[2], "depth": 2, "parent": {"id": messages[1]}},
    ]


async def test_a_conversation_without_messages_has_an_empty_branch(person: Person) -> None:
    found = await read(
        person,
        await start(person),
        "activeLeaf { id } root { id } messages { totalCount nodes { id } pageInfo { endCursor } }",
    )
    empty = {"totalCount": 0, "nodes": [], "pageInfo": {"endCursor": None}}
    assert found == {"activeLeaf": None, "root": None, "messages": empty}


async def test_an_edit_opens_another_branch_and_leaves_the_old_one_readable(person: Person) -> None:
    conversation, (first, second, third) = await talk(person, "a", "b", "c")
    variant = await edit(person, second, "B")
    answer = await say(person, conversation, "C")
    assert await active(person, conversation) == ["a", "B", "C"]
    found = await read(
        person,
        conversation,
        f"""
        old: branch(leafId: "{third}") {{ nodes {{ content }} }}
        middle: branch(leafId: "{second}") {{ nodes {{ content }} totalCount }}
        messages {{ nodes {{ id siblings {{ nodes {{ id }} totalCount }}
                             children {{ nodes {{ id }} }} }} }}
        """,
    )
    assert [node["content"] for node in found["old"]["nodes"]] == ["a", "b", "c"]
    assert [node["content"] for node in found["middle"]["nodes"]] == ["a", "b"]
    assert found["middle"]["totalCount"] == 2
    top, middle, bottom = found["messages"]["nodes"]
    assert top["siblings"] == {"nodes": [{"id": first}], "totalCount": 1}
    assert top["children"]["nodes"] == [{"id": second}, {"id": variant}]
    assert middle["siblings"] == {"nodes": [{"id": second}, {"id": variant}], "totalCount": 2}
    assert middle["children"]["nodes"] == [{"id": answer}]
    assert bottom["siblings"] == {"nodes": [{"id": answer}], "totalCount": 1}


async def test_an_edited_first_message_is_a_second_root(person: Person) -> None:
    conversation, (first, _) = await talk(person, "a", "b")
    variant = await edit(person, first, "A")
    assert await active(person, conversation) == ["A"]
    found = await read(
        person,
        conversation,
        "root { id } activeLeaf { id parent { id } siblings { nodes { id } } }",
    )
    assert found["root"] == {"id": first}
    assert found["activeLeaf"] == {
        "id": variant,
        "parent": None,
        "siblings": {"nodes": [{"id": first}, {"id": variant}]},
    }


async def test_siblings_are_of_one_parent_in_one_conversation(person: Person) -> None:
    conversation, (first, second) = await talk(person, "a", "b")
    cousin_parent = await edit(person, first, "A")
    cousin = await say(person, conversation, "B")
    await talk(person, "elsewhere", "elsewhere too")
    document = (
        "query($ids: [ID!]!) { nodes(ids: $ids) { ... on Message { siblings { nodes { id } } } } }"
    )
    found = await person.ask(document, ids=[second, cousin, first])
    siblings = [[one["id"] for one in node["siblings"]["nodes"]] for node in found["nodes"]]
    assert siblings == [[second], [cousin], [first, cousin_parent]]


async def test_a_leaf_that_is_not_of_the_conversation_gives_an_empty_branch(
    person: Person, new_person: NewPerson
) -> None:
    conversation, _ = await talk(person, "a")
    _, (elsewhere,) = await talk(person, "b")
    _, (foreign,) = await talk(await new_person(), "c")
    unknown = ids.encode("message", UUID(int=7))
    for leaf in (elsewhere, foreign, unknown):
        selection = f'branch(leafId: "{leaf}") {{ totalCount nodes {{ id }} }}'
        found = await read(person, conversation, selection)
        assert found["branch"] == {"totalCount": 0, "nodes": []}


@pytest.mark.parametrize("leaf", ["", "nonsense", ids.encode("conversation", UUID(int=7))])
async def test_a_malformed_leaf_is_a_bad_id(person: Person, leaf: str) -> None:
    document = """query($id: ID!, $leaf: ID!) {
        conversation(id: $id) { branch(leafId: $leaf) { totalCount } } }"""
    answer = await person.execute(document, id=await start(person), leaf=leaf)
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["BAD_ID"]


async def test_a_nested_level_costs_one_statement_per_field(person: Person) -> None:
    document = """
        query($leaf: ID!) { conversations { nodes {
          root { content } activeLeaf { content } branch(leafId: $leaf) { nodes { content } }
          messages { nodes { content parent { content }
            parts { nodes { text } } siblings { nodes { content } } children { nodes { content } }
          } }
        } } }
    """
    counts, leaf = [], ""
    for conversations in (1, 4):
        for _ in range(conversations):
            conversation, (_, second) = await talk(person, "a", "b")
            leaf = await edit(person, second, "B", parts=[{"type": "TEXT", "text": "more"}])
            await say(person, conversation, "c")
        data = await person.ask(document, leaf=leaf)
        counts.append(len(person.statements))
    assert counts == [9, 9]
    for node in data["conversations"]["nodes"]:
        contents = [message["content"] for message in node["messages"]["nodes"]]
        assert contents == ["a", "B", "c"]
        assert node["messages"]["nodes"][1]["parts"]["nodes"] == [{"text": "more"}]
        assert len(node["messages"]["nodes"][0]["children"]["nodes"]) == 2
    branches = [len(node["branch"]["nodes"]) for node in data["conversations"]["nodes"]]
    assert sorted(branches) == [0, 0, 0, 0, 2]


@pytest.fixture
async def long_talk(person: Person, admin_engine: AsyncEngine) -> str:
    """A conversation of `LONG` messages, each third with a sibling that leads nowhere."""
    conversation = await start(person)
    key = ids.decode(conversation)[1]
    made = [person_id(n) for n in range(LONG)]
    rows = [
        {
            "owner_id": person.owner_id,
            "id": identifier,
            "conversation_id": key,
            "parent_id": made[depth - 1] if depth else None,
            "depth": depth,
            "role": "user",
            "content": f"{depth}",
        }
        for depth, identifier in enumerate(made)
    ]
    rows += [{**row, "id": person_id(LONG + n)} for n, row in enumerate(rows[::3])]
    conversations = Conversation.__table__
    async with admin_engine.connect() as connection:
        await connection.execute(Message.__table__.insert(), rows)
        await connection.execute(
            conversations.update()
            .where(conversations.c.owner_id == person.owner_id, conversations.c.id == key)
            .values(active_leaf_id=made[-1])
        )
    return conversation


def person_id(n: int) -> UUID:
    """A UUIDv7 that sorts by its number, last made first."""
    return UUID(int=(2**48 - 1 - n) << 80 | 0x7 << 76 | 0x2 << 62)


PAGE = """
    query($id: ID!, $first: Int, $last: Int, $after: String, $before: String,
          $orderBy: [MessageOrder!], $filter: MessageFilter) {
      conversation(id: $id) {
        messages(first: $first, last: $last, after: $after, before: $before,
                 orderBy: $orderBy, filter: $filter) {
          nodes { depth } pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
        }
      }
    }
"""
DEPTH = [{"field": "DEPTH"}]
FALLING = [{"field": "DEPTH", "direction": "DESC"}]
BY_TIME = [{"field": "CREATED_AT", "direction": "DESC"}, {"field": "DEPTH"}]
SOME: dict[str, Any] = {"content": {"contains": "7"}}


@pytest.mark.parametrize("size", [7, 100])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("order", "kept"),
    [(None, None), (DEPTH, SOME), (FALLING, None), (FALLING, SOME), (BY_TIME, SOME)],
)
async def test_pages_visit_each_message_of_the_branch_once(
    person: Person,
    long_talk: str,
    size: int,
    backward: bool,
    order: list[dict[str, str]] | None,
    kept: dict[str, Any] | None,
) -> None:
    seen: list[int] = []
    variables: dict[str, Any] = {"id": long_talk, "orderBy": order, "filter": kept}
    while True:
        variables["last" if backward else "first"] = size
        page = (await person.ask(PAGE, **variables))["conversation"]["messages"]
        depths = [node["depth"] for node in page["nodes"]]
        seen = depths + seen if backward else seen + depths
        info = page["pageInfo"]
        if not info["hasPreviousPage" if backward else "hasNextPage"]:
            break
        variables["before" if backward else "after"] = info[
            "startCursor" if backward else "endCursor"
        ]
    expected = [depth for depth in range(LONG) if kept is None or "7" in str(depth)]
    assert seen == (expected[::-1] if order is FALLING else expected)


async def test_a_page_between_two_cursors(person: Person, long_talk: str) -> None:
    whole = (await person.ask(PAGE, id=long_talk, first=LONG))["conversation"]["messages"]
    assert len(whole["nodes"]) == LONG
    selection = "messages(first: 300) { edges { cursor } }"
    cursors = [
        edge["cursor"] for edge in (await read(person, long_talk, selection))["messages"]["edges"]
    ]
    between = {"id": long_talk, "after": cursors[99], "before": cursors[110]}
    for sizes, expected in (({"first": 4}, [100, 101, 102, 103]), ({"last": 2}, [108, 109])):
        page = (await person.ask(PAGE, **between, **sizes))["conversation"]["messages"]
        assert [node["depth"] for node in page["nodes"]] == expected


@pytest.mark.parametrize("depth", [-(2**31), -1, LONG, 2**31 - 1])
@pytest.mark.parametrize("end", ["after", "before"])
@pytest.mark.parametrize("way", ["first", "last"])
async def test_a_cursor_from_beyond_the_branch_is_no_error(
    person: Person, long_talk: str, depth: int, end: str, way: str
) -> None:
    order = (OrderTerm("depth"), OrderTerm("id"))
    cursor = encode_cursor(order, [depth, UUID(int=0)])
    page = (await person.ask(PAGE, id=long_talk, **{end: cursor, way: 3}))["conversation"]
    inside = depth < 0 if end == "after" else depth > 0
    expected = ([0, 1, 2] if way == "first" else [297, 298, 299]) if inside else []
    assert [node["depth"] for node in page["messages"]["nodes"]] == expected


async def test_a_deleted_message_cuts_the_branch_below_it(
    person: Person, long_talk: str, admin_engine: AsyncEngine
) -> None:
    messages = Message.__table__
    async with admin_engine.connect() as connection:
        await connection.execute(
            messages.update()
            .where(messages.c.owner_id == person.owner_id, messages.c.depth == 200)
            .values(deleted_at=sa.func.now())
        )
    for sizes, expected in (({"first": 3}, [201, 202, 203]), ({"last": 2}, [298, 299])):
        page = (await person.ask(PAGE, id=long_talk, **sizes))["conversation"]["messages"]
        assert [node["depth"] for node in page["nodes"]] == expected
    found = await read(person, long_talk, "messages { totalCount }")
    assert found["messages"]["totalCount"] == 99


async def test_the_last_page_is_read_without_walking_the_whole_branch(
    person: Person, long_talk: str, admin_engine: AsyncEngine
) -> None:
    relation = MIRRORS[Conversation].relations["messages"]
    walked = []
    for sizes in ({"last": 20}, {"first": 20}):
        request = request_page(relation.target, relation.default_order, sizes)
        statement = pages_select(relation, request.shape, ("id", "depth"))
        leaf = await read(person, long_talk, "activeLeaf { id }")
        keys = [ids.decode(leaf["activeLeaf"]["id"])[1]]
        compiled = statement.compile(dialect=admin_engine.dialect)
        token = current_owner.set(person.owner_id)
        values = compiled.construct_params({"keys": keys, **request.parameters})
        current_owner.reset(token)
        assert compiled.positiontup is not None
        async with admin_engine.connect() as connection:
            explained = await connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, FORMAT JSON) {compiled}",
                tuple(values[name] for name in compiled.positiontup),
            )
            walked.append(rows_of(explained.scalar_one()[0]["Plan"], "Recursive Union"))
    assert walked == [22, LONG]


def rows_of(plan: dict[str, Any], kind: str) -> int:
    """The rows that the nodes of one kind in a plan gave."""
    own = int(plan["Actual Rows"]) if plan["Node Type"] == kind else 0
    return own + sum(rows_of(child, kind) for child in plan.get("Plans", []))


async def test_branches_filter_conversations(person: Person) -> None:
    found, (_, old) = await talk(person, "a", "needle")
    await talk(person, "a", "b")
    document = """{ conversations(filter: {messages: {some: {content: {eq: "needle"}}}}) {
        nodes { id } totalCount } }"""
    data = await person.ask(document)
    assert data["conversations"] == {"nodes": [{"id": found}], "totalCount": 1}
    await edit(person, old, "thread")
    data = await person.ask(document)
    assert data["conversations"]["totalCount"] == 0
    await done(person, "setActiveLeaf", "conversation { id }", conversationId=found, messageId=old)
    assert (await person.ask(document))["conversations"]["totalCount"] == 1
