"""`python -m grpo_cli` is `grpo`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the current folder, which -m puts there: a stranger's typer.py would be ours
    from grpo_cli.cli.main import run

    run()
