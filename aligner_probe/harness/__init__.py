"""Benchmarks of EleutherAI's lm-eval (its "harness"), asked of a base model and of adapters on it, on the same items.

lm-eval makes the prompts, reads the answers and scores them. This package gives it the model with an adapter attached,
keeps every answer on disk, and compares the adapters item by item.
"""
