import aligner_probe as ap

one = ap.load_checkpoint("published:metamath-1-7b")
many = ap.load_checkpoint("published:metamath-10-7b")
print(ap.centre_test(one, many).explanation)
