import aligner_probe as ap

model = ap.load_model("microworld")
pool = ap.AdapterPool([ap.Aligner(model, n_tokens=1, start_layer=2, seed=seed) for seed in (0, 1)])
print(ap.save_pool(pool, "out/pool"))
