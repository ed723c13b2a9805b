import aligner_probe as ap

checkpoint = ap.load_checkpoint("published:alpaca-1-7b")
ap.save_checkpoint(checkpoint, "out/many/alpaca1", overwrite=True)
read, skipped = ap.scan_checkpoints("out/many")
print(len(read), [file.reason for file in skipped])
