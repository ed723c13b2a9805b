"""What a model does, under whatever adapters are attached: greedy completions, scores with format and content apart."""

from aligner_probe.evaluation.generation import generate, generate_ids

__all__ = ["generate", "generate_ids"]
