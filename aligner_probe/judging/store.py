"""Every answer of a judge on disk, by the judge, the words and the settings, so that nothing is paid twice.

A file per answer: FOLDER/ab/abcdef….json. It is written completely or not at all, so a process may be killed at any
moment; what was answered but not yet written then is lost, at most one answer for each request under way.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aligner_probe.errors import AlignerProbeError, CheckpointError
from aligner_probe.files import UNFINISHED, held, read_json, storable, write_text
from aligner_probe.judging.asks import Answer, Ask, key_of


class AnswerStore:
    """The answers of one judge in a folder, which other judges may share.

    `keeps` says whether there are any: a judge whose answers cost nothing has "kept": false in its identity.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]):
        self.folder, self._identity = folder, identity
        self.keeps = identity.get("kept") is not False

    def get(self, ask: Ask) -> Answer | None:
        """The kept answer; None where there is none. Raises CheckpointError for a file that is none."""
        path = self._path(ask)
        if not self.keeps or not path.exists():
            return None
        try:
            return Answer.from_json(read_json(path)["answer"])
        except (KeyError, TypeError, AlignerProbeError) as error:
            raise CheckpointError(
                path, f"is damaged ({error}); remove it, and the judge is asked for this answer again"
            ) from error

    def put(self, ask: Ask, answer: Answer) -> None:
        """Keep an answer, with what was asked. An answer that never came back is not kept."""
        if answer.status == "missing" or not self.keeps:
            return
        asked = {"judge": self._identity, "messages": ask.messages, "choices": ask.choices, "repeat": ask.repeat}
        text = json.dumps({"asked": asked, "answer": vars(answer)}, ensure_ascii=False, indent=1)
        # A judge may answer with half a character, which UTF-8 cannot write.
        write_text(self._path(ask), storable(text) + "\n")

    @contextmanager
    def asking(self) -> Iterator[None]:
        """While the block runs, no other process asks for answers that it would write here, too."""
        if not self.keeps:
            yield
            return
        with held(
            self.folder / "asking.lock",
            f"another process asks a judge and writes into {self.folder}; wait for it, or name another --cache",
        ):
            for left_behind in self.folder.glob(f"*/{UNFINISHED}*"):  # by a process that was killed
                shutil.rmtree(left_behind, ignore_errors=True)
            yield

    def _path(self, ask: Ask) -> Path:
        key = key_of(self._identity, ask)
        return self.folder / key[:2] / f"{key}.json"
