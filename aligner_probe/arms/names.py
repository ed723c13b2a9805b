"""The names of the arms: what a comparison compares, as plans, scores, reports and figures name it.

Nothing is imported here, so that verdicts are drawn without torch.
"""

# Arms that train nothing.
BASE = "base"
#: The best prompt (zero-shot, k-shot or the user's own), chosen on validation.
PROMPT = "prompt"
#: The one answer that scores best where it is given to everything.
CONSTANT = "constant"

# What stands for another arm.
#: The best arm of high capacity, chosen on validation, and the same one trained on shuffled answers.
REFERENCE = "reference"
REFERENCE_SHUFFLED = "reference-shuffled"

# Arms that train.
ALIGNER_1 = "aligner-1"
ALIGNER_1_SHUFFLED = "aligner-1-shuffled"
ALIGNER_10 = "aligner-10"
ALIGNER_100 = "aligner-100"
LLAMA_ADAPTER_10 = "llama-adapter-10"
OUTPUT_BIAS = "output-bias"
RANDOM_SUBSPACE = "random-subspace"
PROMPT_TUNING = "prompt-tuning-10"
LORA_1 = "lora-1"
#: The candidates for the reference. A later one is tried only where none before it has learned.
LORA_8, LORA_16, FULL = "lora-8", "lora-16-all", "full"
CANDIDATES = (LORA_8, LORA_16, FULL)
#: LoRA r=8 on a part of the training examples: how many each arm takes.
ON_FEW = {f"{LORA_8}-on-{n}": n for n in (1, 4, 16, 64)}
#: The third candidate on shuffled answers, tried where the third candidate is.
FULL_SHUFFLED = "full-shuffled"

#: Arms that are tried only where candidates for the reference before them have not learned.
CONDITIONAL = (LORA_16, FULL, FULL_SHUFFLED)
#: Arms whose off-domain knowledge is compared.
KEPT_ARMS = (ALIGNER_1, ALIGNER_10, LLAMA_ADAPTER_10, LORA_8)
#: What a score must be above before it shows that anything of single items was learned.
FLOORS = (BASE, CONSTANT, REFERENCE_SHUFFLED)
