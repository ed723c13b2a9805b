import aligner_probe as ap

model = ap.load_model("microworld")
pool = ap.AdapterPool([ap.Aligner(model, n_tokens=1, start_layer=2, seed=seed) for seed in (0, 1)])
prompts = ["Q: what is 12 plus 30?\nA:", "Q: what is 7 plus 5?\nA:", "Q: what is 2 plus 2?\nA:"]
print(ap.generate(model, prompts, adapters=pool, which=[1, 0, None], max_new_tokens=8, stop=["\n"]))
index = pool.add(ap.Aligner(model, n_tokens=1, start_layer=2, seed=2))
pool.remove(0)
print(pool, index)
