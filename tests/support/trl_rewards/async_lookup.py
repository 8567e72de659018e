"""An async reward: every completion waits for a service, all of them at once."""

# ruff: noqa: ARG001

import asyncio

FACTS = {"18": 1.0, "12": 0.25}


async def look_up(text: str) -> float:
    await asyncio.sleep(0.001)
    return max((score for fact, score in FACTS.items() if fact in text), default=0.0)


async def async_reward_func(prompts, completions, **kwargs):
    tasks = [look_up(completion[0]["content"]) for completion in completions]
    return await asyncio.gather(*tasks)
