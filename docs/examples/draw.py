import aligner_probe as ap

drawing = ap.draw("fig07", [ap.load_checkpoint("published:alpaca-1-7b")])
drawing.figure.savefig("fig07.png")
