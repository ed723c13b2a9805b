import aligner_probe as ap

checkpoint: ap.PrefixCheckpoint = ap.load_checkpoint("published:alpaca-1-7b")
print(checkpoint.prefix.shape)  # (prefix layers, tokens, d_model); an Aligner has one prefix for all layers
print(checkpoint.gates.shape)  # (adapted layers, heads)
print(checkpoint.effective_gates.std(), checkpoint.dtype)
