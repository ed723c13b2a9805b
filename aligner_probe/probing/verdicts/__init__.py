"""From scores to a verdict: measures, evidence, rules and thresholds. Nothing here trains, asks or reads a model.

No module of this room imports torch or TransformerLens, so that stored results can be judged again in a moment.
"""
