import aligner_probe as ap

print(ap.recipe("corrected"))
print(ap.recipe("as-published", method="lora").lr)
short = ap.recipe("corrected", steps=100, batch_size=16)
