"""graphql-transport-ws, frame by frame."""

import asyncio
import json

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from server.app import create_app
from server.websocket import SocketOptions
from tests.edge.conftest import MakeSettings, NewLogin, Served, serving
from tests.edge.schema import SECRET, done, edge_schema
from tests.edge.sockets import (
    ACK,
    INIT,
    PROTOCOL,
    answer,
    closed,
    complete,
    hear,
    opened,
    say,
    subscribe,
)
from tests.edge.waiting import until


async def test_queries_mutations_and_subscriptions(served: Served, new_login: NewLogin) -> None:
    login = await new_login()
    async with opened(served, login) as connection:
        await say(connection, subscribe("{ whoami }"))
        assert await hear(connection) == answer({"whoami": f"user {login.owner_id}"})
        assert await hear(connection) == complete()
        await say(connection, subscribe('mutation { write(name: "socket") }', "1"))
        assert await hear(connection) == answer({"write": "socket"})
        assert await hear(connection) == complete()
        await say(connection, subscribe("subscription { count(to: 2) }", "two"))
        assert await hear(connection) == answer({"count": 0}, "two")
        assert await hear(connection) == answer({"count": 1}, "two")
        assert await hear(connection) == complete("two")


async def test_operations_run_side_by_side_in_contexts_of_their_own(served: Served) -> None:
    async with opened(served) as connection:
        for number in range(20):
            query = "{ sleep(seconds: 0.2) requestId }"
            await say(connection, subscribe(query, str(number)))
        ids = set()
        async with asyncio.timeout(2):
            for _ in range(40):
                message = await hear(connection)
                if message["type"] == "next":
                    ids.add(message["payload"]["data"]["requestId"])
        assert len(ids) == 20


async def test_each_event_has_a_context_of_its_own(served: Served) -> None:
    contexts = {key for key in done if key.startswith("context")}
    async with opened(served) as connection:
        await say(connection, subscribe("subscription { loaded(to: 5) }"))
        # the odd ones are not for this subscriber
        assert [await hear(connection) for _ in range(4)] == [
            answer({"loaded": 0}),
            answer({"loaded": 2}),
            answer({"loaded": 4}),
            complete(),
        ]
    assert {key for key in done if key.startswith("context")} >= contexts


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("{", "GRAPHQL_PARSE_FAILED"),
        ("{ nothing }", "GRAPHQL_VALIDATION_FAILED"),
        ("query A { hello } query B { hello }", "OPERATION_RESOLUTION_FAILURE"),
        ("query($n: Int!) { number(value: $n) }", "BAD_USER_INPUT"),
        ("{ " + "hello " * 300 + "}", "QUERY_TOO_COMPLEX"),
        ("subscription { refused }", "FORBIDDEN"),
        ("subscription($n: Int!) { count(to: $n) }", "BAD_USER_INPUT"),
    ],
)
async def test_a_refused_operation_is_an_error(served: Served, query: str, code: str) -> None:
    async with opened(served) as connection:
        await say(connection, subscribe(query))
        message = await hear(connection)
        assert (message["type"], message["id"]) == ("error", "1")
        assert message["payload"][0]["extensions"]["code"] == code
        await say(connection, subscribe("{ hello }"))  # the id is free again
        assert await hear(connection) == answer({"hello": "Hello, world!"})


async def test_faults_are_masked(served: Served) -> None:
    async with opened(served) as connection:
        await say(connection, subscribe("{ boom }"))
        message = await hear(connection)
        assert message["payload"]["data"] == {"boom": None}
        assert message["payload"]["errors"][0]["message"] == "Internal server error"
        assert await hear(connection) == complete()
        await say(connection, subscribe("subscription { breaks(after: 1) }"))
        assert await hear(connection) == answer({"breaks": 0})
        message = await hear(connection)
        assert message["type"] == "error"
        assert message["payload"][0]["extensions"]["code"] == "INTERNAL_SERVER_ERROR"
        assert SECRET not in json.dumps(message)


async def test_one_event_that_fails_does_not_end_the_subscription(served: Served) -> None:
    async with opened(served) as connection:
        await say(connection, subscribe("subscription { tooBig }"))
        message = await hear(connection)
        assert message["payload"]["data"] is None
        assert await hear(connection) == answer({"tooBig": 1})


MALFORMED = [
    ("[]", "Invalid message: not an object"),
    ("null", "Invalid message: not an object"),
    ("42", "Invalid message: not an object"),
    ('"text"', "Invalid message: not an object"),
    ("{", "Invalid message: The body is not valid JSON: unexpected end of data."),
    ("[" * 100_000, "Invalid message: The body is not valid JSON: depth limit exceeded."),
    ("{}", "Invalid message: unknown type"),
    ('{"type": 1}', "Invalid message: unknown type"),
    ('{"type": "start", "id": "1"}', "Invalid message: unknown type"),
    (b"{}", "Invalid message: frames must be text"),
    ('{"type": "ping", "payload": []}', "Invalid message: payload must be an object"),
    ('{"type": "complete"}', "Invalid message: id must be a string"),
    (json.dumps(subscribe("{ hello }", 1)), "Invalid message: id must be a string"),
    (json.dumps(subscribe("{ hello }", "")), "Invalid message: id must be a string"),
    (json.dumps(subscribe("{ hello }", "x" * 129)), "Invalid message: id is too long"),
    ('{"type": "subscribe", "id": "1"}', "Invalid message: A GraphQL request is a JSON object."),
    (
        '{"type": "subscribe", "id": "1", "payload": {"query": 1}}',
        "Invalid message: query must be a string.",
    ),
    (
        json.dumps(subscribe("{ hello }", variables=[])),
        "Invalid message: variables must be an object or null.",
    ),
]


@pytest.mark.parametrize(("frame", "reason"), MALFORMED)
async def test_a_malformed_message_closes_with_4400(
    served: Served, frame: str | bytes, reason: str
) -> None:
    async with opened(served) as connection:
        await connection.send(frame)
        assert await closed(connection) == (4400, reason)


async def test_operations_wait_for_the_acknowledgement(served: Served) -> None:
    async with connect(served.socket_url, subprotocols=[PROTOCOL]) as connection:
        await say(connection, subscribe("{ hello }"))
        assert await closed(connection) == (4401, "Unauthorized: connection_init comes first")


async def test_a_socket_is_initialised_once(served: Served) -> None:
    async with opened(served) as connection:
        await say(connection, INIT)
        assert await closed(connection) == (4429, "Too many initialisation requests")


@pytest.mark.parametrize("token", ["nonsense", "Basic dTpw", "Bearer eg_" + "0" * 32])
async def test_a_bad_token_closes_the_socket(served: Served, token: str) -> None:
    async with connect(served.socket_url, subprotocols=[PROTOCOL]) as connection:
        await say(connection, INIT | {"payload": {"Authorization": token}})
        reason = "Unauthorized: The token is not valid: log in again."
        assert await closed(connection) == (4401, reason)


async def test_an_id_is_used_once_at_a_time_and_the_reason_fits(served: Served) -> None:
    identifier = "é" * 128
    async with opened(served) as connection:
        for _ in range(2):
            await say(connection, subscribe("subscription { count(to: 9, every: 9) }", identifier))
        code, reason = await closed(connection)
        assert code == 4409
        assert reason.startswith("Subscriber for ééé")
        assert len(reason.encode()) in (122, 123)


async def test_pings_are_answered(served: Served) -> None:
    async with connect(served.socket_url, subprotocols=[PROTOCOL]) as connection:
        await say(connection, {"type": "ping"})
        assert await hear(connection) == {"type": "pong"}
        await say(connection, {"type": "ping", "payload": {"at": 1}})
        assert await hear(connection) == {"type": "pong", "payload": {"at": 1}}
        await say(connection, {"type": "pong"})
        await say(connection, INIT)
        assert await hear(connection) == ACK


async def test_a_completed_subscription_ends_its_source(served: Served, name: str) -> None:
    async with opened(served) as connection:
        query = f'subscription {{ count(to: 9, every: 9, name: "{name}") }}'
        await say(connection, subscribe(query))
        assert await hear(connection) == answer({"count": 0})
        await say(connection, complete())
        await until(lambda: done[f"{name} closed"] == 1)
        await say(connection, complete("never heard of"))
        await say(connection, {"type": "ping"})
        assert await hear(connection) == {"type": "pong"}


async def test_a_client_that_leaves_ends_everything_but_its_mutations(
    served: Served, name: str
) -> None:
    async with opened(served) as connection:
        source = f'subscription {{ count(to: 9, every: 9, name: "{name}") }}'
        await say(connection, subscribe(source, "1"))
        query = f'{{ sleep(seconds: 20, name: "{name} query") }}'
        await say(connection, subscribe(query, "2"))
        write = f'mutation {{ write(name: "{name} write", seconds: 0.5) }}'
        await say(connection, subscribe(write, "3"))
        await until(lambda: done[f"{name} query started"] and done[f"{name} write started"])
        assert await hear(connection) == answer({"count": 0})
    await until(lambda: done[f"{name} closed"] == 1)
    await until(lambda: done[f"{name} write finished"] == 1)
    assert done[f"{name} query finished"] == 0


async def test_a_socket_carries_a_hundred_operations(served: Served) -> None:
    async with opened(served) as connection:
        for number in range(101):
            query = "subscription { count(to: 2, every: 9) }"
            await say(connection, subscribe(query, str(number)))
        messages = [await hear(connection) for _ in range(101)]
        [refused] = [message for message in messages if message["type"] == "error"]
        assert refused["id"] == "100"
        assert refused["payload"][0]["extensions"] == {"code": "RATE_LIMITED"}


async def test_only_its_own_protocol_is_spoken(served: Served) -> None:
    for offered in ([], [Subprotocol("graphql-ws")]):
        async with connect(served.socket_url, subprotocols=offered or None) as connection:
            reason = "The subprotocol must be graphql-transport-ws"
            assert await closed(connection) == (4406, reason)


@pytest.mark.parametrize(
    ("origin", "welcome"),
    [
        ("own", True),
        ("https://evil.example", False),
        ("null", False),
        ("https://app.test", True),
    ],
)
async def test_pages_of_other_origins_are_not_served(
    make_settings: MakeSettings, origin: str, welcome: bool
) -> None:
    settings = make_settings(allowed_origins=("https://app.test",))
    async with serving(create_app(settings, schema=edge_schema)) as served:
        origin = origin.replace("own", f"http://127.0.0.1:{served.port}")
        connecting = connect(
            served.socket_url, subprotocols=[PROTOCOL], additional_headers={"Origin": origin}
        )
        if welcome:
            async with connecting as connection:
                await say(connection, INIT)
                assert await hear(connection) == ACK
        else:
            with pytest.raises(InvalidStatus, match="403"):
                await connecting


async def test_a_revoked_login_ends_its_socket(
    served: Served, new_login: NewLogin, admin_engine: AsyncEngine
) -> None:
    login = await new_login()
    async with opened(served, login) as connection:
        await say(connection, subscribe("subscription { count(to: 99, every: 9) }"))
        assert await hear(connection) == answer({"count": 0})
        async with admin_engine.connect() as admin:
            revoke = "UPDATE login_sessions SET revoked_at = now() WHERE id = :id"
            await admin.execute(text(revoke), {"id": login.id})
        assert await closed(connection) == (4401, "Unauthorized: the login has ended")


async def test_who_does_not_introduce_itself_is_not_kept(make_settings: MakeSettings) -> None:
    options = SocketOptions(init_seconds=0.3)
    app = create_app(make_settings(), schema=edge_schema, socket_options=options)
    async with (
        serving(app) as served,
        connect(served.socket_url, subprotocols=[PROTOCOL]) as connection,
    ):
        assert await closed(connection) == (4408, "Connection initialisation timeout")


async def test_a_reader_that_does_not_read_is_closed(
    make_settings: MakeSettings, name: str
) -> None:
    options = SocketOptions(send_seconds=0.5)
    app = create_app(make_settings(), schema=edge_schema, socket_options=options)
    async with serving(app) as served:
        # a client of the standard library: it stops reading once its small buffer is full
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1_000)
        writer.write(
            b"GET /graphql HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        query = f'subscription {{ flood(size: 100000, name: "{name}") }}'
        for message in (INIT, subscribe(query)):
            frame = Frame(Opcode.TEXT, json.dumps(message).encode())
            writer.write(frame.serialize(mask=True))
        await until(lambda: done[f"{name} closed"] == 1)
        # what the buffers of the two kernels hold, and not all there was to send
        assert done[f"{name} sent"] < 200
        seen = b""
        async with asyncio.timeout(5):
            while b"\x03\xf5Too slow: messages were not read in time" not in seen:
                chunk = await reader.read(1_000_000)
                assert chunk
                seen = seen[-100:] + chunk
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("kind", ["connection_init", "ping", "pong"])
async def test_a_payload_nested_too_deeply_closes_the_socket(served: Served, kind: str) -> None:
    for levels, fits in ((32, True), (33, False), (300, False)):
        payload = '{"a":' * levels + "1" + "}" * levels
        async with connect(served.socket_url, subprotocols=[PROTOCOL]) as connection:
            await connection.send(f'{{"type": "{kind}", "payload": {payload}}}')
            if fits:
                await say(connection, {"type": "ping"})
                assert (await hear(connection))["type"] in ("connection_ack", "pong")
            else:
                reason = "Invalid message: payload is nested too deeply"
                assert await closed(connection) == (4400, reason)
