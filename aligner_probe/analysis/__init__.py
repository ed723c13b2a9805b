"""Analyses of checkpoints: one module, one public function, one small result with `to_frame()` each."""
