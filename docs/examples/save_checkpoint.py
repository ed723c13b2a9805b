import aligner_probe as ap

checkpoint = ap.load_checkpoint("published:alpaca-1-7b")
ap.save_checkpoint(checkpoint, "out/alpaca1", overwrite=True)
