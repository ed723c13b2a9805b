import aligner_probe as ap

alpaca = ap.load_checkpoint("published:alpaca-1-7b")
metamath = ap.load_checkpoint("published:metamath-1-7b")
collection = ap.Collection([alpaca, metamath])
print([group.title for group in collection.groups])
