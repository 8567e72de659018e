"""Names of files in a run's folder that several modules need."""

CONFIG_FILE = "config.toml"
ANSWERS = "answers*.jsonl"  # pattern: one for each rank
ROLLOUTS = "rollouts"  # every completion of the newest steps
