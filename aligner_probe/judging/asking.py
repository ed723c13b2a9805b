"""Ask a judge for all answers that are not on disk yet; each different ask once."""

from collections.abc import Sequence

from tqdm.auto import tqdm

from aligner_probe.judging.asks import Answer, Ask, Judge
from aligner_probe.judging.store import AnswerStore


def n_missing(asks: Sequence[Ask], store: AnswerStore) -> int:
    """How many answers a judge would be asked for: those that are not on disk, each different one once."""
    return sum(store.get(ask) is None for ask in dict.fromkeys(asks))


def ask_all(
    asks: Sequence[Ask], judge: Judge, store: AnswerStore, *, name: str = "answers", show_progress: bool = False
) -> list[Answer]:
    """The answers of all asks, in their order: from the disk, and the missing ones from the judge.

    Each answer is on disk before the next one is counted, so a later call, also after a kill, asks only for what is
    missing. Raises AlignerProbeError where the judge cannot go on, or another process is asking into the same folder.
    """
    answers = {ask: store.get(ask) for ask in dict.fromkeys(asks)}
    missing = [ask for ask, answer in answers.items() if answer is None]
    with tqdm(total=len(answers), initial=len(answers) - len(missing), desc=name, disable=not show_progress) as bar:

        def told(index: int, answer: Answer) -> None:
            store.put(missing[index], answer)
            answers[missing[index]] = answer
            bar.update()

        if missing:
            with store.asking():
                judge.answer(missing, told)
    return [answers[ask] or Answer("missing", "the judge gave no answer") for ask in asks]
