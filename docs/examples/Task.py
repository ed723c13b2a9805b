import aligner_probe as ap

task: ap.Task = ap.load_task("panel:style_pirate")
print(task.name, len(task), task.prompts[0])
task.to_frame()
