"""What the words of a report mean, in full sentences: verdicts, measures and terms. The report page prints them."""

#: What each verdict says of a task, for one base model and for supervised fine-tuning.
VERDICTS = {
    "form": "The best prompt in words or examples reaches the task.",
    "latent": "The base model has the ability, but no prompt in words or examples that was tried reaches it. A soft "
    "prompt of ten trained vectors does.",
    "new": "Neither a prompt in words or examples nor a soft prompt of ten trained vectors reaches the task, while a "
    "larger adapter learns it. The task needs knowledge or a skill that the base model does not have.",
    "mixed": "The form and the content of the answers have different natures. The parts below say which is which.",
    "constant answer": "One fixed answer scores almost as well as everything else, so the task cannot show anything.",
    "undetermined": "No verdict is given, because a control failed, an interval crosses a cut or the test set is too "
    "small. The reason stands below.",
}
#: The measures of a report: name, and what it is.
MEASURES = (
    ("F", "R of the best prompt. Prompts without and with examples, and instructions in words where you gave some, are "
     "tried; validation items choose the best."),
    ("R_soft", "R of prompt tuning: ten vectors before the prompt are trained. No prompt of that length can do more "
     "than ten well trained vectors."),
    ("R1", "R of Aligner-1, the adapter with one token."),
    ("B", "R of a free output bias, which is one trained vector in each layer. It bounds what Aligner-1 can do."),
    ("delta", "R1 minus R of a random subspace with as many parameters as Aligner-1. Only a positive delta is evidence "
     "for the global token itself."),
    ("K", "The most right answers about another domain that remain with Aligner-1, among its learning rates and "
     "lengths that reach the form of the task; as a share of those before training. 1 means that nothing was "
     "forgotten. It is not measured where no run of Aligner-1 reaches the form."),
)  # fmt: skip
#: The terms that verdicts and measures rest on.
TERMS = (
    ("Floor", "The best score that needs no knowledge of single test items: the highest of the base model without a "
     "prompt, the best constant answer, and the reference trained on shuffled answers."),
    ("Reference", "The method with enough parameters to learn the task: LoRA with rank 8, or where that has not "
     "learned it, LoRA with rank 16 on all linear layers or full fine-tuning, whichever validation prefers. Where none "
     "learns it whole, two that have stopped must agree, and the verdict says of what it is a share."),
    ("R", "The share of the gap that a method recovers: (score − floor) / (reference − floor). It is 0 at the floor "
     "and 1 at the reference, and it has no unit."),
    ("Cut", "The value of F or R_soft above which a prompt, or a soft prompt, counts as having reached the task. The "
     "whole interval must lie on one side of the cut. The report says on which tasks the cuts were set."),
    ("Known items", "The test items whose content the base model gives when it is asked for the bare content. The form "
     "of an answer can be judged on these items even where the base model knows only a part of the contents."),
    ("Memory task", "A task whose test asks for what was trained, in other words. One token can hold a few facts, so "
     "such a task is never called form or latent."),
    ("k50, k90", "The number of trained parameters at which a family of adapters recovers half, or 90 %, of the gap."),
)  # fmt: skip
