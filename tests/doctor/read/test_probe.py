"""The trial of MLX on this machine: its stages in order, a product that is right, and a stage that fails."""

import json
import time
from types import SimpleNamespace

import mlx.core as mx
import pytest

from grpo_cli.doctor.read import probe


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_stage_is_said_before_it_begins(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "SIZE", 64)
    monkeypatch.setattr(probe, "COPIED_BYTES", 1 << 16)
    probe.main()
    said = lines(capsys)
    stages = [line["stage"] for line in said if "stage" in line]
    assert stages == ["import mlx", "device", "product", "memory bandwidth", "import mlx_lm", "done"]
    answers = {key: value for line in said for key, value in line.items()}
    assert answers["product_right"] is True
    assert answers["nanochat"] is True
    assert answers["mlx"] == mx.__version__


def test_what_fails_is_said_after_its_stage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> dict[str, object]:
        raise RuntimeError("no device")

    monkeypatch.setattr(probe, "device_facts", broken)
    with pytest.raises(SystemExit) as ended:
        probe.main()
    assert ended.value.code == 1
    assert lines(capsys)[-2:] == [{"stage": "device"}, {"error": "RuntimeError: no device"}]


def test_a_wrong_product_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product of ones that is one too small in one place."""
    monkeypatch.setattr(probe, "SIZE", 8)
    broken = SimpleNamespace(
        ones=lambda _: mx.ones((8, 8)) * (1 - 1 / 64), abs=mx.abs, random=mx.random, eval=mx.eval
    )
    assert probe.product_facts(broken)["product_right"] is False
    assert probe.product_facts(mx)["product_right"] is True


def test_speeds_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 · 8³ operations and 2 · 4096 bytes in half a millisecond."""
    monkeypatch.setattr(probe, "SIZE", 8)
    monkeypatch.setattr(probe, "COPIED_BYTES", 4096)
    monkeypatch.setattr(probe, "timed", lambda _: 0.0005)
    assert probe.product_facts(mx)["gflops"] == pytest.approx(1024 / 0.0005 / 1e9)
    assert probe.bandwidth(mx) == pytest.approx(8192 / 0.0005 / 1e9)


def test_seconds_are_those_of_the_work() -> None:
    assert probe.timed(lambda: time.sleep(0.02)) >= 0.02
