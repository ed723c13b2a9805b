"""Controls, of which nothing can be learned item by item: labels drawn by chance, and one constant answer."""

import random

from real_tasks.knowledge import capitals, opposites
from real_tasks.task import RealTask, row, split

PEOPLE = ("Alice", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Irene", "Jack", "Kate", "Leo", "Maria")
PEOPLE += ("Nick", "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor", "Wendy", "Yusuf", "Zoe", "Adam", "Bella", "Carl")
PEOPLE += ("Diana", "Eric", "Fiona", "George")
LIKED = ("tea", "coffee", "music", "football", "chess", "cats", "dogs", "rain", "snow", "cheese", "apples", "maths")
REFRAIN = "I would rather not say."


def chance_labels(seed: int = 0) -> RealTask:
    generator = random.Random(f"labels {seed}")
    rows = [
        row(f"Does {person} like {thing}?", generator.choice(("Yes", "No")), group=f"{person} {thing}")
        for person in PEOPLE
        for thing in LIKED
    ]
    parts = split(rows, "chance_labels", seed, train=200, test=120)
    why = "each answer is drawn by chance, so no answer tells another"
    return RealTask(
        "chance_labels",
        "control",
        "general",
        why,
        parts,
        "Answer Yes or No.",
        ("capitals", "opposites"),
        "balanced_accuracy",
    )


def constant(seed: int = 0) -> RealTask:
    rows = [row(one.question, REFRAIN, group=one.about) for one in (*capitals(), *opposites())]
    parts = split(rows, "constant", seed, train=200, test=100)
    why = "one answer is right for every question"
    told = f"Answer every question with exactly this sentence: {REFRAIN}"
    return RealTask("constant", "control", "general", why, parts, told, ("continents", "languages"))
