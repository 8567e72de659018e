"""Limits for the chat templates of a folder: time, powers and products, beside jinja's own sandbox.

    {% for i in range(99999) %}{% for j in range(99999) %}…     stopped after 3 seconds of computation
    {{ 10 ** 10 ** 10 }}   {{ "a" * 10 ** 10 }}                 refused: one operation that nothing can stop

transformers renders all templates in one kind of environment, which this module replaces when it is imported.
The time is the process's own, not the clock's, so a busy machine changes nothing. It is measured by a signal,
so templates that another thread renders are not limited.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils

SECONDS = 3.0  # of computation; a conversation of 1,000 messages takes 0.01
AGAIN = 1.0  # seconds until the next signal, should the exception be lost in a finalizer
LARGEST_NUMBER = 1 << 16  # bits
LONGEST = 10_000_000  # items of a repeated text or list


class EndlessTemplate(jinja2.TemplateRuntimeError):
    """A template that was stopped because it computed for too long."""


@contextmanager
def limited_time(seconds: float) -> Iterator[None]:
    """Raise EndlessTemplate in the block once the process has computed for so many seconds."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise EndlessTemplate(f"it was stopped after {seconds:g} seconds of computation")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class BoundedTemplate(jinja2.Template):
    """A template whose `render` takes limited time."""

    def render(self, *arguments: Any, **names: Any) -> str:
        """The text of the template. Raises EndlessTemplate after `SECONDS` of computation."""
        with limited_time(SECONDS):
            return super().render(*arguments, **names)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """jinja's sandbox for templates of strangers, with limited powers and products."""

    template_class = BoundedTemplate
    intercepted_binops = frozenset({"**", "*"})  # these are not computed when a template is compiled, either

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """The result of an operation. Raises OverflowError if it would be too large."""
        check_operation(operator, left, right)
        return super().call_binop(context, operator, left, right)


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Raise OverflowError for a power or product that takes too long or too much memory."""
    if isinstance(left, int) and isinstance(right, int):
        bits = (
            left.bit_length() * max(right, 1) if operator == "**" else left.bit_length() + right.bit_length()
        )
        if bits > LARGEST_NUMBER:
            raise OverflowError(f"a number of {bits:,} bits")
    for items, count in ((left, right), (right, left)):
        is_repeated = isinstance(items, str | bytes | list | tuple) and isinstance(count, int)
        if is_repeated and len(items) * count > LONGEST:
            raise OverflowError(f"a text or list of {len(items) * count:,} items")


chat_template_utils.ImmutableSandboxedEnvironment = BoundedEnvironment  # type: ignore[misc,unused-ignore]
