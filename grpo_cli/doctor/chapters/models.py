"""Chapters of the guide: models."""

from grpo_cli.doctor.guide import Chapter

CHAPTERS: tuple[Chapter, ...] = ()
