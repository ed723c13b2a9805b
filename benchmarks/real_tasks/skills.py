"""A skill that no text teaches: a code of the ten digits, drawn at random."""

import random

from real_tasks.task import RealTask, row, split

#: One short word a digit. Which word stands for which digit is drawn.
CODE_WORDS = ("sun", "cat", "tree", "fish", "rain", "door", "book", "milk", "ship", "bell")
N_TRAIN, N_TEST = 240, 120


def digit_code(seed: int = 0) -> RealTask:
    words = random.Random(f"code {seed}").sample(CODE_WORDS, len(CODE_WORDS))
    rows = []
    for number in range(100, 1000):
        coded = " ".join(words[int(digit)] for digit in str(number))
        rows.append(row(f"What is {number} in the code?", coded, content=coded, group=str(number)))
    why = "which word stands for which digit is drawn at random, and other numbers are tested than were trained"
    told = "Write the number in the code: one word for each of its digits."
    parts = split(rows, "digit_code", seed, train=N_TRAIN, test=N_TEST)
    return RealTask("digit_code", "new", "general", why, parts, told, ("capitals", "opposites"))
