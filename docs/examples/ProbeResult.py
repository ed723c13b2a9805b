import aligner_probe as ap

result: ap.ProbeResult = ap.probe_task("microworld", "panel:code_digits", budget="quick")
print(result.verdict.outcome)
result.scores()
result.samples()
result.plot()
