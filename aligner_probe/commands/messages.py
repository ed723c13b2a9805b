"""The sentences that commands print beside their results.

They are gathered here so that a test names a sentence, for instance `messages.STATE_KEPT.format(out=out)`, and does not
quote it. Errors are written where they are raised, because they tell what was found there.
"""

#: How an interrupted command goes on, where it takes --resume and where it does not need it.
RESUME = "go on with the same command and --resume"
NO_RESUME_NEEDED = "the same command goes on (it needs no --resume)"

#: What `run` prints after Ctrl-C, and what it adds where the command says nothing.
INTERRUPTED = "interrupted; {said}"
NOTHING_LEFT = "nothing half-written is left"

#: What an interrupted command keeps, and how to go on.
CELLS_KEPT_RESUME = f"what is finished in {{out}} is kept: {RESUME}"
CELLS_KEPT = f"what is finished in {{out}} is kept: {NO_RESUME_NEEDED}"
STATE_KEPT = f"{{out}} keeps the last saved state: {RESUME}"
NO_STATE = (
    "no state was saved yet (the first comes after {steps} steps, --save-every), so there is nothing to --resume: the "
    "same command begins anew"
)
PRETRAINING_KEPT = f"{{work}} keeps what was saved: {RESUME}"

#: What `generate` says: its plan, what is kept when it is interrupted, and what a folder of other answers is of.
ANSWERS_PLANNED = "{n} questions to {models} models: {done} answers are there, {left} are left, in {batches} batches"
ANSWERS_BEGUN = f"the answers in {{out}} are kept: {NO_RESUME_NEEDED}"
ANSWERS_TAKEN = "another process is writing answers to {out}; wait for it, or name another folder: --out OUT"
OTHER_ANSWERS = "other questions, adapters or options than these"

#: What `evaluate` keeps when it is interrupted, and what it says where a server has not given all answers.
ANSWERS_KEPT = f"the judge's answers in {{folder}} are kept: {NO_RESUME_NEEDED}"
ANSWERS_MISSING = "{n} answers of the judge are missing: the same command asks only for them"

#: What `evaluate benchmark` says: its plan, what is kept when it is interrupted, and what another folder is of.
BENCHMARK_PLANNED = "{name}: {size}; {left} of {models} models are left, about {minutes:.1f} min each"
BENCHMARKS_PLANNED = "about {minutes:.1f} min in all, by one batch of each benchmark on the base model alone"
BENCHMARK_KEPT = f"what each model finished in {{out}} is kept: {NO_RESUME_NEEDED}"
BENCHMARK_TAKEN = "another process is asking benchmarks into {out}; wait for it, or name another folder: --out DIR"
OTHER_BENCHMARKS = "another base model, or other options, than these"
NO_TEMPLATE_USED = (
    "the base model has a chat template, and the questions are asked without it; to ask them as a user's messages: "
    "--as-chat"
)

#: What `train` says before and after the training.
TRAINS = "{method}: {n:,} trainable parameters on {model} in {dtype}; {n_train} examples, {n_validation} for validation"
HELD_OUT = "(10 % of {task}, held out by group)"
GATES_OPENED = "gates are left at {gate:.4g}: tokens add {share:.1%} of the residual norm"
NOT_AS_PUBLISHED = "not as published: {difference}"
OTHER_DTYPE = "the base is in {dtype}, theirs in bfloat16 as the adapter (leave out --dtype)"
VALIDATION_LOSS = "validation loss {before:.4f} before, {best:.4f} at best (step {step})"
UPDATES_LOST = "{share:.1%} of the updates due in {period} rounded to nothing"
UPDATES_NOT_COUNTED = "lost updates were not counted"
NO_UPDATE_DUE = "no update was due"
