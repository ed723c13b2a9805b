import aligner_probe as ap

many = ap.load_checkpoint("published:metamath-100-7b")
map_of_tokens = ap.embed_tokens([many], method="tsne", seed=0)
print(map_of_tokens.coordinates.shape)
