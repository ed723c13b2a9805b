import aligner_probe as ap

model = ap.load_model("microworld")
template = "{% for m in messages %}{{ m.role[0] | upper }}: {{ m.content }}\n{% endfor %}"
ap.set_chat_template(model, template + "{% if add_generation_prompt %}A: {% endif %}")
print(model.tokenizer.chat_template is not None)
ap.set_chat_template(model, None)  # the micro-world has no template of its own
