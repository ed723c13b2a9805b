import aligner_probe as ap

model = ap.load_model("microworld")
print(ap.generate(model, ["Q: what is 12 plus 30?\nA:"], max_new_tokens=8, stop=["\n"]))
