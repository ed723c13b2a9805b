import aligner_probe as ap

task = ap.load_task("panel:style_pirate")
print(len(task), task.examples[0].prompt, task.examples[0].completion)
training, validation = task.split(0.1, seed=0)
