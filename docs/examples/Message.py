import aligner_probe as ap

question = ap.Message("user", "Name a pet.")
print(ap.Conversation((question, ap.Message("assistant", "A cat."), ap.Message("user", "Another one."))))
