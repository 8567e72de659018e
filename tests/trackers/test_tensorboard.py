"""tensorboard's event files of an interrupted and resumed run, read by tensorboard's own reader."""

from pathlib import Path

import pytest

from grpo_cli.trackers.tensorboard import cell
from tests.support.tracked_runs import STEPS, tracked


def test_each_step_once_with_its_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX", reason="the extra `tensorboard` is not installed")
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    rewards, notices = tracked(tmp_path, "tensorboard", monkeypatch)
    (folder,) = (tmp_path / "run/trackers/tensorboard").iterdir()
    events = reader.EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0})
    events.Reload()
    seen = [(event.step, event.value) for event in events.Scalars("train/reward")]
    assert [step for step, _ in seen] == STEPS
    assert [value for _, value in seen] == pytest.approx([rewards[step] for step in STEPS])
    assert [event.step for event in events.Scalars("eval/accuracy")] == [0, 4]
    texts = [event.step for event in events.Tensors("completions/text_summary")]
    assert texts == STEPS
    (summary, last) = events.Tensors("summary/text_summary")
    assert b"interrupted" in summary.tensor_proto.string_val[0]
    assert b"accuracy" in last.tensor_proto.string_val[0] and notices == []


def test_a_completion_is_no_markup() -> None:
    assert cell("<script>x</script> | [a](javascript:x)\nb") == (
        "&lt;script&gt;x&lt;/script&gt; &#124; &#91;a&#93;&#40;javascript:x&#41;<br>b"
    )
    assert len(cell("x" * 5000)) == 2001
