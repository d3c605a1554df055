"""Single names that the store is asked for: one question about each at a time, for all who come.

An answer is as of when it was asked for. Who must have what the store has now, because another
node's close has returned before, takes no answer to an earlier question, but waits for that to be
over and shares the next one with all who come until it is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

Key = tuple[int, str]
"""Directory and name."""


class Question:
    """``forced``: what was begun before it is asked must not answer it."""

    def __init__(self, before: Question | None) -> None:
        self.before = before
        self.forced = False
        self.asked = False
        self.task: asyncio.Task[None] | None = None

    def progress(self) -> int:
        """A number that grows when the question before is over."""
        return int(self.asked)


class Questions:
    """``ended``: a question is over, with an answer or an error."""

    def __init__(self, ended: Callable[[asyncio.Task[None]], None]) -> None:
        self._ended = ended
        self._latest: dict[Key, Question] = {}

    def __len__(self) -> int:
        return len(self._latest)

    def find(self, key: Key, *, force: bool) -> Question | None:
        """The question that one who comes now can share."""
        question = self._latest.get(key)
        if question is None or (force and question.asked):
            return None
        question.forced = question.forced or force
        return question

    def begin(
        self, key: Key, ask: Callable[[bool], Coroutine[Any, Any, None]], *, force: bool
    ) -> Question:
        """``ask(forced)`` when it is this one's turn; its error is raised by the task."""
        question = Question(self._latest.get(key))
        question.forced = force
        self._latest[key] = question
        question.task = asyncio.get_running_loop().create_task(self._ask(question, ask))
        question.task.add_done_callback(lambda task: self._over(key, question, task))
        return question

    @staticmethod
    async def _ask(question: Question, ask: Callable[[bool], Coroutine[Any, Any, None]]) -> None:
        before = question.before
        if before is not None and before.task is not None:
            await asyncio.wait([before.task])  # however it ends
        question.before, question.asked = None, True
        await ask(question.forced)

    def _over(self, key: Key, question: Question, task: asyncio.Task[None]) -> None:
        if self._latest.get(key) is question:
            del self._latest[key]
        self._ended(task)

    def tasks(self) -> list[asyncio.Task[None]]:
        """Of all questions that are not over."""
        questions = list(self._latest.values())
        questions += [item.before for item in questions if item.before is not None]
        return [item.task for item in questions if item.task is not None]
