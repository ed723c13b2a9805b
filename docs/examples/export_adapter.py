import aligner_probe as ap

done = ap.export_adapter("published:metamath-10-7b", "native", "out/metamath10")
print(done.path, done.notes)
