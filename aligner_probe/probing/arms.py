"""The names of what is compared: every arm of a probe, under the name it has in plans, scores and reports."""

BASE = "base"
#: The best prompt (zero-shot, k-shot or the user's own), chosen on validation.
PROMPT = "prompt"
CONSTANT = "constant"
#: The best high-capacity method, chosen on validation, and the same one trained on shuffled answers.
REFERENCE = "reference"
REFERENCE_SHUFFLED = "reference-shuffled"
ALIGNER_1 = "aligner-1"
ALIGNER_1_SHUFFLED = "aligner-1-shuffled"
OUTPUT_BIAS = "output-bias"
RANDOM_SUBSPACE = "random-subspace"
PROMPT_TUNING = "prompt-tuning-10"
#: Arms whose off-domain knowledge is compared.
KEPT_ARMS = (ALIGNER_1, "aligner-10", "llama-adapter-10", "lora-8")

#: What a score must be above before anything item-specific was learned.
FLOORS = (BASE, CONSTANT, REFERENCE_SHUFFLED)
