"""Chapters of the guide: training."""

from grpo_cli.doctor.guide import Chapter

CHAPTERS: tuple[Chapter, ...] = ()
