"""Analyses of checkpoints: one module each, with one public function that returns a small result with `to_frame()`."""
