import aligner_probe as ap

asked = ap.Conversation([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a pet."}])
task = ap.load_task([ap.Example(asked, "A cat.")])
print(task.prompts[0].system, asked.turns)
