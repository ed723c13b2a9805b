import aligner_probe as ap

model = ap.load_model("microworld")
ap.save_pool(ap.AdapterPool([ap.Aligner(model, n_tokens=1, start_layer=2, seed=seed) for seed in (0, 1)]), "out/pool")
pool = ap.open_pool("out/pool", model)
print(ap.generate(model, ["Q: what is 12 plus 30?\nA:"], adapters=pool, which=[1], max_new_tokens=8, stop=["\n"]))
