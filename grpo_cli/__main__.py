"""`python -m grpo_cli` is `grpo`."""

from grpo_cli.cli.main import run

if __name__ == "__main__":
    run()
