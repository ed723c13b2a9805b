import aligner_probe as ap

ap.set_threads(2)
ap.set_threads(None)  # back to the default: by the size of the base model
