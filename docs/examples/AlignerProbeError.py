import aligner_probe as ap

try:
    ap.load_task("no-such-file.jsonl")
except ap.AlignerProbeError as error:
    print(error)  # one line: what was found, what was expected, how to go on
