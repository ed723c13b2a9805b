import aligner_probe as ap

rows = [ap.Example(f"Q: what is {n:02d} plus 01?\nA:", f" {n + 1:02d}!", content=f"{n + 1:02d}") for n in range(20)]
task = ap.load_task(rows)
print(len(task))
