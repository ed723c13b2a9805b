"""The micro-world: a small base model whose knowledge is known, and everything that makes it.

`world.py` says what is true, `questions.py`, `styles.py`, `locks.py` and `requests.py` how it is put into words,
`corpus.py` what the model reads, `pretrain.py` how it learns, `exam.py` what it knows then, `panel.py` the tasks with a
known answer. All of it follows from one seed.
"""
