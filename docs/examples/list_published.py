import aligner_probe as ap

for file in ap.list_published()[:3]:
    print(file.name, file.data_set, file.n_tokens)
