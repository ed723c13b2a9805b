import aligner_probe as ap

checkpoint = ap.load_checkpoint("published:alpaca-1-7b")  # or a file or folder of your own
print(checkpoint.prefix.shape, checkpoint.gates.shape, checkpoint.dtype)
