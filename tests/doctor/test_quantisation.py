"""Size, speed and accuracy by bits."""

import pytest

from grpo_cli.doctor.quantisation import Row, recommendation, smallest, told
from tests.doctor.looking import TINY, Here, look

PLAIN = Row(0, 538.1, 94.0, 15.04, 1.0, 0.375)
ROWS = [
    PLAIN,
    Row(8, 143.0, 97.0, 15.05, 0.99, 0.375),
    Row(6, 109.4, 96.0, 15.46, 0.97, 0.34375),
    Row(4, 75.8, 95.0, 18.74, 0.85, 0.375),
    Row(2, 42.1, 93.0, 1240033.1, 0.02, 0.0),
]


def test_the_fewest_bits_that_are_as_good() -> None:
    assert smallest(ROWS) == 6
    assert smallest([PLAIN, Row(8, 1, 1, 15.0, 1.0, 0.25)]) is None  # 4 of 32 answers lost
    without = [Row(0, 1, 1, None, 1.0, None), Row(8, 1, 1, None, 0.95, None), Row(4, 1, 1, None, 0.89, None)]
    assert smallest(without) == 8


def test_the_table_as_it_is_told() -> None:
    assert told(ROWS[:3], in_float32=True).splitlines() == [
        "group size 64",
        "bits         MB  tokens/s  perplexity  same tokens  accuracy",
        "as is     538.1        94        15.0            –       38%",
        "8         143.0        97        15.1          99%       38%",
        "6         109.4        96        15.5          97%       34%",
        "this CPU computes in float32 whatever the bits: they save disk here, not time or memory",
        "the fewest bits as good as the weights: 6 (perplexity within 10% and at most 1 of 32 answers lost): "
        "`grpo convert … --quantize --bits 6`",
    ]


def test_where_no_bits_are_good_enough() -> None:
    assert recommendation([PLAIN, ROWS[4]]) == (
        "no number of bits is as good as the weights "
        "(perplexity within 10% and at most 1 of 32 answers lost): leave them as they are"
    )


def test_the_embedded_model_by_bits() -> None:
    """128-wide float32 layers: 26 tensors of 867,328 numbers, all quantisable at group size 64."""
    case = Here(model="tiny", config_name="smoke_test", overrides=("eval_max_new_tokens=8",))
    (finding,) = look(case, "quantisation")
    rows = finding.numbers["rows"]
    assert [row["bits"] for row in rows] == [0, 8, 6, 4, 3, 2]
    # bits a number, and a scale and a bias of 32 bits each for 64 numbers; tiny holds float32
    sizes = [867_328 * (bits / 8 + 8 / 64) / 1e6 for bits in (8, 6, 4, 3, 2)]
    assert [row["megabytes"] for row in rows] == pytest.approx(
        [(TINY / "model.safetensors").stat().st_size / 1e6, *sizes]
    )
    assert rows[1]["same_tokens"] > 0.97 > rows[5]["same_tokens"]
    assert all(row["tokens_per_second"] > 0 and row["perplexity"] is None for row in rows)
    assert all(row["accuracy"] in [count / 32 for count in range(33)] for row in rows)
    assert finding.severity == "ok"
