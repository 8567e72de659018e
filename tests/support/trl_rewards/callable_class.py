"""A reward that is an object: it has a name, settings, and something it keeps between calls."""

# ruff: noqa: ARG002


class KeywordReward:
    __name__ = "keyword_reward"

    def __init__(self, keyword: str, bonus: float = 1.0):
        self.keyword = keyword
        self.bonus = bonus
        self.calls = 0

    def __call__(self, prompts: list, completions: list, **kwargs) -> list[float]:
        self.calls += 1
        return [self.bonus if self.keyword in c[-1]["content"].lower() else 0.0 for c in completions]


keyword_reward = KeywordReward("sum", bonus=0.3)
