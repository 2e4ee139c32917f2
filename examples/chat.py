"""A chat with a model in the terminal, whose replies are not lost.

    ENGRAM_TOKEN=eg_… python examples/chat.py

Type a line and read the answer as it is written. Ctrl-C leaves, also in the middle of an answer:
the server writes it to its end, and the next start shows the rest of it, from the very letter where
the last one broke off. The same happens by itself when the connection is lost, or the server is
replaced by another. Started with `--stop` it ends the answer that is being written, and shows what
there is of it. `/again` asks for another answer, `/new` begins a conversation, `/quit` leaves.

What it needs to know:

- A message is sent with an idempotency key, and sent again under the same one until there is an
  answer, so it is asked, and paid for, once.
- Each piece of a reply has a `seq`; `generationStream(afterSeq:)` goes on after it.
- The last event has the whole message: what was not shown yet is the end of its text.

It keeps its place in a file, `.engram-chat.json` or what ENGRAM_CHAT_FILE names. It needs Python
3.11 and httpx.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

URL = os.environ.get("ENGRAM_URL", "http://127.0.0.1:8000/graphql")
FILE = Path(os.environ.get("ENGRAM_CHAT_FILE", ".engram-chat.json"))
LONGEST_PAUSE_SECONDS = 5.0
QUIET_SECONDS = 30.0
"""The server sends a heartbeat more often than this; without one the connection is dead."""

CREATE = """mutation($input: CreateConversationInput!) {
    done: createConversation(input: $input) { conversation { id } problems { message } } }"""
SEND = """mutation($input: SendMessageInput!) { done: sendMessage(input: $input) {
    reply { id } generation { id } problems { message } } }"""
AGAIN = SEND.replace("sendMessage", "regenerateMessage").replace("SendM", "RegenerateM")
STOP = """mutation($input: StopGenerationInput!) { done: stopGeneration(input: $input) {
    message { content } problems { message } } }"""
FOLLOW = """subscription($id: ID!, $after: Int!) { generationStream(id: $id, afterSeq: $after) {
    seq text reasoning message { content status } problem { message } } }"""


class Refused(Exception):
    """The server understood, and does not do it."""


class Chat:
    """A conversation, and how much of its last reply was shown."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._place: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}

    @property
    def is_open(self) -> bool:
        """Whether a reply was not shown to its end."""
        return bool(self._place.get("generation")) and not self._place.get("ended")

    def say(self, text: str) -> None:
        """Send a message."""
        if "conversation" not in self._place:
            made = self._do(CREATE, {"title": text[:80]})
            self._keep(conversation=made["conversation"]["id"])
        self._asked(
            self._do(SEND, {"conversationId": self._place["conversation"], "content": text})
        )

    def again(self) -> None:
        """Ask for another answer."""
        if "reply" not in self._place:
            raise Refused("There is no answer yet.")
        self._asked(self._do(AGAIN, {"id": self._place["reply"]}))

    def stop(self) -> None:
        """End the answer that is being written."""
        if self.is_open:
            self._do(STOP, {"id": self._place["generation"]})

    def forget(self) -> None:
        """Begin anew; the old conversation stays on the server."""
        self._place = {}
        self._keep()

    def show(self) -> None:
        """Show what was not shown yet of the reply, as it is written, to its end."""
        pause = 0.1
        while self.is_open:
            try:
                for event in self._events():
                    self._shown(event)
                    pause = 0.1
            except httpx.HTTPError:
                pass
            if self.is_open:
                # The connection was lost, not the reply: it is taken up where it was.
                time.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _shown(self, event: dict[str, Any]) -> None:
        text, message = event["text"], event["message"]
        if event["reasoning"] and sys.stdout.isatty():
            write(f"\033[2m{event['reasoning']}\033[0m")
        if message is not None:
            text = message["content"][self._place["shown"] :]
        write(text)
        shown = self._place["shown"] + len(text)
        self._keep(seq=event["seq"], shown=shown, ended=message is not None)
        if message is not None:
            why = event["problem"]["message"] if event["problem"] else ""
            note = "" if message["status"] == "COMPLETE" else f" [{message['status'].lower()}]"
            write(f"{note} {why}".rstrip() + "\n")

    def _events(self) -> Iterator[dict[str, Any]]:
        place = {"id": self._place["generation"], "after": self._place["seq"]}
        headers = {"accept": "text/event-stream"}
        body = {"query": FOLLOW, "variables": place}
        with self._client.stream("POST", URL, json=body, headers=headers) as response:
            if response.status_code != 200:
                response.read()
                raise Refused(response.text)
            for line in response.iter_lines():
                if line.startswith("data: "):
                    answer = json.loads(line.removeprefix("data: "))
                    if "errors" in answer:
                        self._keep(ended=True)
                        raise Refused(answer["errors"][0]["message"])
                    yield answer["data"]["generationStream"]

    def _asked(self, made: dict[str, Any]) -> None:
        self._keep(
            reply=made["reply"]["id"], generation=made["generation"]["id"],
            seq=0, shown=0, ended=False,
        )  # fmt: skip

    def _do(self, document: str, input: dict[str, Any]) -> dict[str, Any]:
        """Do it once, however often it must be sent."""
        body = {
            "query": document,
            "variables": {"input": {**input, "idempotencyKey": str(uuid4())}},
        }
        pause = 0.1
        while True:
            try:
                response = self._client.post(URL, json=body)
                if response.status_code < 500:
                    break
            except httpx.TransportError:
                pass
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        answer = response.json()
        if "errors" in answer:
            raise Refused(answer["errors"][0]["message"])
        done: dict[str, Any] = answer["data"]["done"]
        if done["problems"]:
            raise Refused("; ".join(problem["message"] for problem in done["problems"]))
        return done

    def _keep(self, **place: object) -> None:
        """Remember the place, all of it or nothing."""
        self._place |= place
        new = FILE.with_suffix(".new")
        new.write_text(json.dumps(self._place))
        new.replace(FILE)


def write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def obey(chat: Chat, line: str) -> bool:
    """Do what a line says; False to leave."""
    match line.strip():
        case "":
            pass
        case "/quit":
            return False
        case "/new":
            chat.forget()
        case "/again":
            chat.again()
        case text:
            chat.say(text)
    return True


def main() -> int:
    """Talk until the end of the input."""
    token = os.environ.get("ENGRAM_TOKEN")
    if not token:
        print("Set ENGRAM_TOKEN.", file=sys.stderr)
        return 2
    headers = {"authorization": f"Bearer {token}"}
    timeout = httpx.Timeout(QUIET_SECONDS, connect=5.0)
    with httpx.Client(headers=headers, timeout=timeout) as client:
        chat = Chat(client)
        try:
            if "--stop" in sys.argv[1:]:
                chat.stop()
            while True:
                try:
                    chat.show()
                    if not obey(chat, input("> ")):
                        return 0
                except Refused as refused:
                    print(refused)
        except EOFError:
            return 0
        except KeyboardInterrupt:
            print("\nThe reply goes on without you." if chat.is_open else "")
            return 0


if __name__ == "__main__":
    sys.exit(main())
