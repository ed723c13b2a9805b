"""Arms: the methods with their options that probe, reproduction and figures compare.

`names.py` has their names, without torch; `catalogue.py` has what each of them is.
"""
