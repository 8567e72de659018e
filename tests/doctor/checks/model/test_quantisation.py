"""Size, speed and accuracy by bits."""

import pytest

from grpo_cli.doctor.checks.model.quantisation import BitsRow, recommendation, smallest, told
from tests.support.doctor_findings import TINY, Here, look

PLAIN = BitsRow(
    bits=0, megabytes=538.1, tokens_per_second=94.0, perplexity=15.04, same_tokens=1.0, accuracy=0.375
)
ROWS = [
    PLAIN,
    BitsRow(
        bits=8, megabytes=143.0, tokens_per_second=97.0, perplexity=15.05, same_tokens=0.99, accuracy=0.375
    ),
    BitsRow(
        bits=6, megabytes=109.4, tokens_per_second=96.0, perplexity=15.46, same_tokens=0.97, accuracy=0.34375
    ),
    BitsRow(
        bits=4, megabytes=75.8, tokens_per_second=95.0, perplexity=18.74, same_tokens=0.85, accuracy=0.375
    ),
    BitsRow(
        bits=2, megabytes=42.1, tokens_per_second=93.0, perplexity=1240033.1, same_tokens=0.02, accuracy=0.0
    ),
]


def test_the_fewest_bits_that_are_as_good() -> None:
    assert smallest(ROWS) == 6
    assert (
        smallest(
            [
                PLAIN,
                BitsRow(
                    bits=8, megabytes=1, tokens_per_second=1, perplexity=15.0, same_tokens=1.0, accuracy=0.25
                ),
            ]
        )
        is None
    )  # 4 of 32 answers lost
    without = [
        BitsRow(bits=0, megabytes=1, tokens_per_second=1, perplexity=None, same_tokens=1.0, accuracy=None),
        BitsRow(bits=8, megabytes=1, tokens_per_second=1, perplexity=None, same_tokens=0.95, accuracy=None),
        BitsRow(bits=4, megabytes=1, tokens_per_second=1, perplexity=None, same_tokens=0.89, accuracy=None),
    ]
    assert smallest(without) == 8


def test_the_table_as_it_is_told() -> None:
    assert told(ROWS[:3], in_float32=True).splitlines() == [
        "group size 64",
        "bits         MB  tokens/s  perplexity  same tokens  accuracy",
        "as is     538.1        94        15.0            –       38%",
        "8         143.0        97        15.1          99%       38%",
        "6         109.4        96        15.5          97%       34%",
        "this CPU computes in float32 for any number of bits: quantizing saves disk space here, not time "
        "or memory",
        "the fewest bits as good as the original weights: 6 (perplexity within 10% and at most 1 of 32 "
        "answers lost): "
        "`grpo convert … --quantize --bits 6`",
    ]


def test_where_no_bits_are_good_enough() -> None:
    assert recommendation([PLAIN, ROWS[4]]) == (
        "no number of bits is as good as the original weights "
        "(perplexity within 10% and at most 1 of 32 answers lost): leave them as they are"
    )


def test_the_embedded_model_by_bits() -> None:
    """128-wide float32 layers: 26 tensors of 867,328 numbers, all quantisable at group size 64."""
    context = Here(model="tiny", config_name="smoke_test", overrides=("eval_max_new_tokens=8",))
    (finding,) = look(context, "quantisation")
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
