"""Every loss type with every option, the step cut in every way: the gradient of the plain loop.

    uv run python -m tests.bench.algorithms

The tests try one way for each case (tests/engine/update/test_gradient.py). Ends with an AssertionError
where a gradient differs, else prints how many were compared.
"""

from grpo_cli.device import prepare

prepare()

from tests.support.loss_cases import CASES, CUTS, check_case  # noqa: E402  (after the device)


def main() -> None:
    for case in CASES:
        check_case(case, CUTS)
    print(f"{len(CASES)} cases in {len(CUTS)} ways: equal")


if __name__ == "__main__":
    main()
