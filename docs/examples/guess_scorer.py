import aligner_probe as ap

guess = ap.guess_scorer(ap.load_task("panel:style_pirate"))
print(guess.scorer, guess.reason)
