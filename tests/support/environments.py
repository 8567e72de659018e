"""Environments for tests: they force tokens after certain ids, and answer turns."""

import random
import time

from grpo_cli.environments.protocol import Environment, Reply, Turn


class Echo(Environment):
    """Forces the token's successor and the token itself after every id that is divisible by 5."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.skip = 0

    def read(self, token_id: int) -> list[int]:
        self.seen.append(token_id)
        if self.skip:
            self.skip -= 1
            return []
        if token_id % 5:
            return []
        self.skip = 2
        self.calls += 1
        return [(token_id + 1) % 300, token_id]


class Asking(Echo):
    """Also answers the first two turns with three ids that depend on the turn."""

    delay = 0.0

    def respond(self, turn: Turn) -> Reply | None:
        time.sleep(self.delay * random.random())
        if turn.number == 2:
            return None
        return Reply(token_ids=(40 + turn.number, 50, len(turn.token_ids) % 200))


class SlowlyAsking(Asking):
    delay = 0.2
