import aligner_probe as ap

gates = ap.gate_statistics(ap.load_checkpoint("published:metamath-1-7b"))
print(gates.spearman, gates.std_by_layer.shape)
