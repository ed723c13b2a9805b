import aligner_probe as ap

model = ap.load_model("microworld")
task, held_out = ap.load_task("panel:style_pirate").split(0.1, seed=0)
adapter = ap.Aligner(model, n_tokens=1, start_layer=2, seed=0)
few = ap.recipe("corrected", lr=0.1, steps=4, evaluate_every=2)
run: ap.Run = ap.fit(model, adapter, task, validation=held_out, recipe=few, show_progress=False)
print(run.n_steps, run.best_validation_loss, run.advice)
run.metrics.tail()
