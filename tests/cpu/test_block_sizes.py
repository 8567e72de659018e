"""Blocks of attention: their sizes, and the kinds of model that have none."""

from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.cpu import attention
from grpo_cli.cpu.block_sizes import SCORES, scores_at_once
from grpo_cli.engine.memory.estimate import Shape
from tests.support.kind_trials import make
from tests.support.model_kinds import KINDS, config_of


def test_a_block_has_sixteen_queries_at_least() -> None:
    assert scores_at_once(1, 9, 1000) == SCORES
    assert scores_at_once(64, 14, 2048) == 16 * 64 * 14 * 2048


def test_kinds_without_blocks_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kind of mlx-lm is estimated as if its attention were in blocks while some of it is not."""
    plain, attend, calls = mx.fast.scaled_dot_product_attention, attention.attend, {"plain": 0, "blocks": 0}

    def counted(name: str, real: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            calls[name] += 1
            return real(*given, **named)

        return call

    monkeypatch.setattr(attention, "attend", counted("blocks", attend))
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", counted("plain", plain))
    wrong = {}
    for name in KINDS:
        shape = Shape.of(config_of(name))
        if shape is None or not shape.attention_layers:
            continue
        calls.update(plain=0, blocks=0)
        try:
            model = make(name)
            with attention.blockwise_attention():
                model(mx.array([[1, 2, 3, 4]]))  # not evaluated
        except (RuntimeError, SystemExit):  # it needs Metal, or a package that is not there
            continue
        if not shape.keeps_scores and (calls["plain"] or not calls["blocks"]):
            wrong[name] = dict(calls)
    assert wrong == {}
