import aligner_probe as ap

model = ap.load_model("microworld")
adapter = ap.LLaMAAdapterV2(model, n_tokens=10, seed=0)
print(adapter.n_parameters)
with adapter.attached():  # the adapter changes the model only inside this block
    answers = ap.generate(model, ["Q: what is 12 plus 30?\nA:"], stop=["\n"])
