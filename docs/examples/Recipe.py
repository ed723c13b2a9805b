import aligner_probe as ap

few: ap.Recipe = ap.recipe("corrected", lr=0.1, steps=4)
print(few.lr, few.steps, few.batch_size)  # batch_size None: left open until the task is known
