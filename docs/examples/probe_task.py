import aligner_probe as ap

result = ap.probe_task("microworld", "panel:code_digits", budget="quick")
print(result.verdict.outcome, result.verdict.reason)
