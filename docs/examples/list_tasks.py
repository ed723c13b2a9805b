import aligner_probe as ap

for task in ap.list_tasks()[:3]:
    print(task.name, task.nature, task.why)
