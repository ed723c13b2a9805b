"""Judges of free answers: which of two is better, how good is one of 10, is it harmful, does it refuse.

One question to a judge is an `Ask`, and what comes back is an `Answer` (`asks.py`). `prompts.py` puts an ask into words
and `verdicts.py` reads the answer. Judges are an endpoint (`endpoint.py`), a local model (`local.py`) and the rules of
the micro-world (`rules.py`). `store.py` keeps every answer on disk and `asking.py` asks only for what is missing there.
From verdicts to rates: `battles.py`, `lengths.py`, `safety.py`; every judge is first asked about answers whose rank is
known (`calibration.py`). `report.py` writes what came out.
"""
