import aligner_probe as ap

model = ap.load_model("microworld")
task, held_out = ap.load_task("panel:style_pirate").split(0.1, seed=0)
few = ap.recipe("corrected", lr=0.1, steps=4, evaluate_every=2)
adapters = [ap.Aligner(model, n_tokens=1, start_layer=2, seed=seed) for seed in (0, 1)]
trainings = [ap.Training(adapter=adapter, task=task, validation=held_out, recipe=few) for adapter in adapters]
runs = ap.fit_together(model, trainings, show_progress=False)
print([run.best_validation_loss for run in runs])
