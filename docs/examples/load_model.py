import aligner_probe as ap

model = ap.load_model("microworld")
print(model.cfg.n_layers, model.cfg.d_model)
logits = model("Q: what is 12 plus 30?\nA:")  # (batch, pos, d_vocab)
