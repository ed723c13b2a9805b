import aligner_probe as ap

model = ap.load_model("microworld")
adapter = ap.Aligner(model, n_tokens=1, start_layer=2, seed=0)
ap.save_adapter(adapter, "out/aligner1", overwrite=True)
again = ap.load_adapter("out/aligner1", model)
