"""Chapters of the guide: memory."""

from grpo_cli.doctor.guide import Chapter

CHAPTERS: tuple[Chapter, ...] = ()
