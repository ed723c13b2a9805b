import aligner_probe as ap

model = ap.load_model("microworld")
task, held_out = ap.load_task("panel:style_pirate").split(0.1, seed=0)
scores = ap.score_task(model, held_out)
print(scores.mean("strict"), scores.mean("content"))
scores.to_frame()
