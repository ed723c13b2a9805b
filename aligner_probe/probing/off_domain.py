"""Questions of another domain than the task's, which measure how much knowledge an adapter keeps (K).

The micro-world has two domains: facts and sums. For a task about one of them the other one is asked, and for any other
task both. Other base models have no such questions of their own: give a file, or K is not measured.
"""

import random
from dataclasses import replace

from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.microworld.operations import OPERATIONS, pairs
from aligner_probe.microworld.questions import ask, expression
from aligner_probe.microworld.vocabulary import vocabulary
from aligner_probe.microworld.world import World
from aligner_probe.tasks.as_chat import as_conversation
from aligner_probe.tasks.chat_template import are_chat
from aligner_probe.tasks.task import Example, Task

N_ITEMS = 60
#: A task is about a domain where at least this share of its prompts has a word of the domain.
ABOUT = 0.05


def off_domain_of(
    model: TransformerBridge, task: Task, *, n_items: int = N_ITEMS, world_seed: int = 0, seed: int = 0
) -> Task | None:
    """Off-domain items for a task; None where the base model is no micro-world, or the task is about both domains.

    There are at most `n_items`, and as many of each domain and operation.
    """
    world = World.from_seed(world_seed)
    tokenizer = model.tokenizer
    if tokenizer is None or not set(vocabulary(world)) <= set(tokenizer.get_vocab()):
        return None
    generator = random.Random(f"off-domain {seed}")
    words = [set(str(prompt).replace("?", " ").replace(".", " ").split()) for prompt in task.prompts]
    entities = {*world.people, *world.places, *world.strangers}
    domains = {
        "facts": (entities, _facts(world, generator, n_items)),
        "sums": ({operation.name for operation in OPERATIONS}, _sums(world, generator, n_items)),
    }
    others = [
        items for about, items in domains.values() if sum(bool(about & one) for one in words) < ABOUT * len(words)
    ]
    if not others:
        return None
    per_domain = n_items // len(others)
    return Task("off-domain", "sft", tuple(item for items in others for item in items[:per_domain]))


def asked_like(items: Task, task: Task) -> Task:
    """Items whose prompts are texts, asked as a user's messages where the prompts of `task` are conversations."""
    if not are_chat(task.prompts) or are_chat(items.prompts):
        return items
    return replace(items, examples=tuple(as_conversation(one) for one in items.examples))


def _facts(world: World, generator: random.Random, n_items: int) -> list[Example]:
    return [
        Example(ask(expression(fact.entity, fact.attribute)), f" {fact.value}.", content=fact.value)
        for fact in generator.sample(world.facts, n_items)
    ]


def _sums(world: World, generator: random.Random, n_items: int) -> list[Example]:
    """Sums with operands that the corpus withholds, so that the operation is asked and not the memory of a sum."""
    sums = []
    for operation in OPERATIONS:
        for a, b in generator.sample(pairs(world, operation, withheld=True), n_items // len(OPERATIONS)):
            answer = operation.answer(a, b)
            sums.append(Example(ask(operation.expression(a, b)), f" {answer}.", content=answer))
    generator.shuffle(sums)
    return sums
