"""Chapters of the guide: saving."""

from grpo_cli.doctor.guide import Chapter

CHAPTERS: tuple[Chapter, ...] = ()
