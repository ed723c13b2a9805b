import aligner_probe as ap

alpaca = ap.load_checkpoint("published:alpaca-1-7b")
metamath = ap.load_checkpoint("published:metamath-1-7b")
report = ap.compare_checkpoints(alpaca, metamath)
print(report.verdict, report.explanation)
report.to_frame()
