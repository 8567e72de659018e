"""Chapters of the guide: configuration."""

from grpo_cli.doctor.guide import Chapter

CHAPTERS: tuple[Chapter, ...] = ()
