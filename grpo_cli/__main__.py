"""Entry point of `python -m grpo_cli`, the same as `grpo`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # -m puts the current folder first: a typer.py in it would be imported
    from grpo_cli.cli.main import run

    run()
