"""The paper's experiments on the micro-world: instructions, math and safety, every method, seeds and control arms."""
