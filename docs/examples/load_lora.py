import aligner_probe as ap

model = ap.load_model("microworld")
ap.export_adapter(ap.LoRA(model, r=4, seed=0), "peft", "out/lora-peft")
lora = ap.load_lora("out/lora-peft")
print(lora)
