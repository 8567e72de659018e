"""Build the embedded model from nothing: `python -m grpo_cli.models.tiny.build [--output DIR]`.

Trains the vocabulary, then the model on the author's texts, scores it on the embedded test split
and writes the folder that `model_name = "tiny"` loads. The seed and the scores go to build.json.
"""

import argparse
from pathlib import Path

HERE = Path(__file__).parent
SEED = 0


def main() -> None:
    """Read the arguments, make the processor fast, and only then import what imports mlx."""
    parser = argparse.ArgumentParser(description="Train the embedded model on synthetic sums.")
    parser.add_argument(
        "--output", type=Path, default=HERE, help="folder to write (default: the package's own)"
    )
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--steps", type=int, default=None, help="optimizer updates (default: the recipe's)")
    arguments = parser.parse_args()

    from grpo_cli import device

    device.prepare()
    from grpo_cli.models.tiny import training

    training.build(arguments.output, arguments.seed, arguments.steps or training.STEPS)


if __name__ == "__main__":
    main()
