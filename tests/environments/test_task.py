"""Examples of an environment: the dataset's, its own generator's, or empty episodes."""

from grpo_cli.config.schema import Config
from grpo_cli.environments.table import load_environments
from grpo_cli.environments.task import load_task


def test_the_embedded_game_brings_its_examples() -> None:
    config = Config(environment="guess", num_episodes=10, eval_samples=7, system_prompt="Play.")
    environments = load_environments(config.environments)
    train = load_task(config, "train", environments)
    assert len(train) == 10
    assert train[0].messages[0] == {"role": "system", "content": "Play."}
    assert sorted(example.answer for example in train[:5]) == list("12345")
    assert len(load_task(config, "test", environments)) == 7
    assert load_task(config, "train", environments) == train


def test_without_episodes_the_dataset_is_used() -> None:
    config = Config(environment="guess", dataset="arithmetic", max_train_samples=3)
    assert len(load_task(config, "train", load_environments(config.environments))) == 3
