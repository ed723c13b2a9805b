import aligner_probe as ap

model = ap.load_model("microworld")
task = ap.load_task("panel:style_pirate")
opened = ap.open_gate(model, task, ap.Aligner, n_tokens=1, seed=0)
adapter = ap.Aligner(model, n_tokens=1, seed=0, train="tokens", initial_gate=opened.initial_gate)
