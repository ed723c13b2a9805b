import aligner_probe as ap

print(ap.parameter_table().to_frame())
