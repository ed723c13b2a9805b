import aligner_probe as ap

alpaca = ap.load_checkpoint("published:alpaca-1-7b")
metamath = ap.load_checkpoint("published:metamath-1-7b")
equality = ap.compare_numbers(alpaca, metamath)
print(equality.n_equal, "of", equality.prefix.n)
